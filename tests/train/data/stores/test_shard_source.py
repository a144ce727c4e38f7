"""Samples from folders, pipes and web servers: what is damaged or does not come is named, the rest is read."""

from __future__ import annotations

import functools
import gzip
import shlex
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from manifests import object_store as stores
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tests.train.data.support import Quiet, batches_of, cut_short, sequential
from tests.train.support import SMALL
from tgtrain.config import load_recipe
from tgtrain.data.setup import prepare
from tgtrain.data.stores.shard_source import BrokenStreamError, ShardSource


class Troubled(Quiet):
    """As a server in trouble: the first answers are errors, the next ones end in the middle of a file."""

    num_errors = num_cuts = 0

    def do_GET(self) -> None:  # noqa: N802 - the name of http.server
        kind = type(self)
        if self.path.endswith(".tar") and kind.num_errors:
            kind.num_errors -= 1
            self.send_error(503)
            return
        if self.path.endswith(".tar") and kind.num_cuts:
            kind.num_cuts -= 1
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        super().do_GET()


def test_truncated_shard_loses_its_last_samples_by_name(root: Path) -> None:
    """The third sample of each does not come, and is counted once a pass."""
    template, last = cut_short(root)
    setup = sequential(root, template)
    batches = batches_of(setup, 12)
    split = read_split(root)
    for part, wanted in (("unlabelled", split.unlabelled), ("labelled", split.labelled)):
        there = {key for key, flag in zip(split.key, wanted, strict=True) if flag}
        clips = [getattr(batch, part) for batch in batches]
        assert all(len(each.keys) == 4 for each in clips)
        assert not {key for each in clips for key in each.keys} & last
        bad = [reason for each in clips for reason in each.bad]
        assert {reason.partition(" in ")[0] for reason in bad} == there & last
        assert all("its shard ends before it" in reason or "its stream breaks" in reason for reason in bad)
        counts = Counter(reason.partition(" in ")[0] for reason in bad)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_damaged_sample_is_named_and_others_come(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    manifest = read_manifest(root)
    split = read_split(root)
    victim = next(row for row in manifest.videos if split.unlabelled[split.key.index(row.key)])
    with (root / victim.shard).open("r+b") as shard:
        shard.seek(victim.members.rgb_offset)
        shard.write(bytes(victim.members.rgb_bytes))
    batches = batches_of(sequential(root), 6)
    bad = [reason for batch in batches if batch.unlabelled for reason in batch.unlabelled.bad]
    assert bad
    assert all(reason.startswith(f"{victim.key} in {victim.shard}: RGB frame ") for reason in bad)
    assert victim.key not in {key for batch in batches if batch.unlabelled for key in batch.unlabelled.keys}


def test_stream_that_breaks_once_loses_nothing(root: Path, tmp_path: Path) -> None:
    once = f"{tmp_path}/{{shard}}"
    where = f"{shlex.quote(str(root))}/{{shard}}"
    script = f"if [ -e {once} ]; then cat {where}; else touch {once}; head -c 30000 {where}; exit 3; fi"
    template = f"pipe:sh -c {shlex.quote(script)}"
    setup = sequential(root, template)
    batches = batches_of(setup, 6)
    assert len(list(tmp_path.iterdir())) >= 2
    for batch, other in zip(batches, batches_of(sequential(root), 6), strict=True):
        assert batch.labelled.bad == ()
        assert batch.labelled.keys == other.labelled.keys


def test_server_errors_are_retried(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are waited out with one warning; a file that was cut on its way is read again."""
    told: list[str] = []
    monkeypatch.setattr(stores, "_warning_handler", lambda place, text: told.append(text))
    monkeypatch.setattr(stores, "_last_failure", {})
    monkeypatch.setattr(stores, "_already_warned", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Troubled, directory=str(root.parent))) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        Troubled.num_errors, Troubled.num_cuts = 2, 2
        batches = batches_of(sequential(root, f"http://127.0.0.1:{running.server_port}/set/{{shard}}"), 6)
        running.shutdown()
    assert (Troubled.num_errors, Troubled.num_cuts) == (0, 0)
    for batch, other in zip(batches, batches_of(sequential(root), 6), strict=True):
        assert batch.unlabelled is not None
        assert batch.labelled.bad == batch.unlabelled.bad == ()
        assert batch.labelled.keys == other.labelled.keys
    (warning,) = told
    assert "does not answer (503" in warning


def test_refused_request_is_not_retried() -> None:
    class Refusing(Quiet):
        num_asked = 0

        def do_GET(self) -> None:  # noqa: N802 - the name of http.server
            Refusing.num_asked += 1
            self.send_error(403)

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=r"dataset.json: the store refuses the request \(403"):
            read_manifest(f"http://127.0.0.1:{running.server_port}/set")
        running.shutdown()
    assert Refusing.num_asked == 2  # its size, its content


def test_failing_command_is_named(root: Path) -> None:
    name = read_manifest(root).shards[0].name
    script = f"test {{shard}} != {name} && cat {shlex.quote(str(root))}/{{shard}}"
    setup = sequential(root, f"pipe:sh -c {shlex.quote(script)}")
    bad = {reason for batch in batches_of(setup, 9) for reason in (*batch.labelled.bad, *batch.unlabelled.bad)}  # type: ignore[union-attr]
    assert bad
    assert all(
        f" in {name}: `sh -c 'test {name} != {name}" in reason and "ended with code 1" in reason for reason in bad
    )
    with pytest.raises(
        InputError,
        match=r"No sample can be read from \d shards, the last: .*`sh -c 'exit 7' shard-.*` ended with code 7",
    ):
        batches_of(sequential(root, "pipe:sh -c 'exit 7' {shard}"), 1)


def test_no_shell_and_no_odd_name() -> None:
    source = ShardSource("", "pipe:curl -s 'https://host/a?b=1&c={shard}' $HOME")
    assert source.command("shard-1.tar") == ["curl", "-s", "https://host/a?b=1&c=shard-1.tar", "$HOME"]
    for name in ("a; rm b.tar", "$(id)", "-o", "../x", "a b", "", "a\nb", ".hidden"):
        with pytest.raises(InputError, match="is no plain name of a shard"):
            source.command(name)
    for command in (
        "cat {shard} | gzip -d",
        "cat {shard}; id",
        "cat {shard} > x",
        "a && b {shard}",
        "(a {shard})",
    ):
        with pytest.raises(InputError, match=r"No shell reads this command.* pipe:sh -c '"):
            ShardSource("", f"pipe:{command}")
    with pytest.raises(InputError, match="is no command"):
        ShardSource("", "pipe:cat '{shard}")
    with pytest.raises(InputError, match="no-such-program cannot be started"):
        list(ShardSource("", "pipe:no-such-program {shard}").samples("a.tar"))


def member(name: str, size: int, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    """A tar header that says any size, and its content."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.pax_headers = size, kind, pax
    return entry.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member("a.jpg", 10**15, b"x"), "unexpected end of data"),
        (member("a.jpg", -(10**9), b"x"), "negative size"),
        (member("a.jpg", 512, b"x" * 512, **{"GNU.sparse.major": "0", "GNU.sparse.size": str(10**18), "GNU.sparse.map": "0,1"}), "sparse"),
        (member("a.jpg", 3, b"abc") * 2, "duplicate file name"),
        (gzip.compress(bytes(10**7), mtime=0), "bad checksum|invalid header"),
        (bytes(3), "truncated header"),
        (member("x", 10**14, b"", tarfile.XHDTYPE), "."),
        (member("../../a.jpg", 3, b"abc", tarfile.SYMTYPE) + bytes(1024), ""),
    ],
)  # fmt: skip
def test_hostile_streams_cost_little(tmp_path: Path, content: bytes, reason: str) -> None:
    """Whatever the headers say, no more is taken than the stream holds and the manifest allows."""
    (tmp_path / "a.tar").write_bytes(content)
    source = ShardSource(str(tmp_path), num_bytes={"a.tar": len(content)})
    tracemalloc.start()
    try:
        if reason:
            with pytest.raises(BrokenStreamError, match=reason):
                list(source.samples("a.tar"))
        else:
            assert list(source.samples("a.tar")) == []
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_a_stream_without_end_is_cut() -> None:
    source = ShardSource("", "pipe:cat /dev/zero {shard}", {"a.tar": 10**6})
    assert list(source.samples("a.tar")) == []
    with pytest.raises(BrokenStreamError, match="invalid header"):
        list(ShardSource("", "pipe:yes {shard}", {"a.tar": 10**6}).samples("a.tar"))


def test_prepare_needs_no_listing(root: Path, tmp_path: Path) -> None:
    """The tables alone are here, as from a server that lists nothing; the shards come through a pipe."""
    tables = tmp_path / "tables"
    for path in root.rglob("*"):
        if path.is_file() and path.suffix != ".tar":
            target = tables / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    config = load_recipe(
        "demo", [*SMALL, "data.reader=stream", f"data.shards=pipe:cat {root}/{{shard}}"], num_classes=3
    )
    setup = prepare(str(tables), read_split(tables), read_manifest(tables), config)
    assert len(batches_of(setup, 2)[1].labelled.keys) == 4
