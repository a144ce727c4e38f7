"""Samples from folders, pipes and web servers: what is damaged or does not come is named, the rest is read."""

from __future__ import annotations

import functools
import shlex
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
from tgtrain.data.stores.shard_source import ShardSource


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
    template = f"pipe:if [ -e {once} ]; then cat {where}; else touch {once}; head -c 30000 {where}; exit 3; fi"
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
    assert Refusing.num_asked == 1


def test_failing_command_is_named(root: Path) -> None:
    name = read_manifest(root).shards[0].name
    setup = sequential(root, f"pipe:test {{shard}} != {name} && cat {shlex.quote(str(root))}/{{shard}}")
    bad = {reason for batch in batches_of(setup, 9) for reason in (*batch.labelled.bad, *batch.unlabelled.bad)}  # type: ignore[union-attr]
    assert bad
    assert all(f" in {name}: `test {name} != {name}" in reason and "ended with code 1" in reason for reason in bad)
    with pytest.raises(
        InputError, match=r"No sample can be read from \d shards, the last: .*`exit 7 # shard-.*` ended with code 7"
    ):
        batches_of(sequential(root, "pipe:exit 7 # {shard}"), 1)


def test_shard_names_are_quoted() -> None:
    source = ShardSource("", "pipe:cat /set/{shard}")
    assert source.location("a; rm b.tar") == "pipe:cat /set/'a; rm b.tar'"


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
