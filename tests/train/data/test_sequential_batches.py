"""Shards read from their beginning: the clips of the indexed reader, through files, pipes and a web server without ranges."""

from __future__ import annotations

import functools
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.train import main as tgtrain
from manifests import object_store as stores
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import read_split
from tests.train.data.support import extract_all
from tests.train.support import ALONE, SMALL, records, setup_of, write_data_set
from tgtrain.config import load_recipe
from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.data.build import step_dataset
from tgtrain.data.clip import ClipSettings, plan_train
from tgtrain.data.loader import step_loader
from tgtrain.data.reader import open_reader
from tgtrain.data.sequential_batches import ClipBuffer, Slot, WaitingClips, share_of
from tgtrain.data.setup import Setup, prepare
from tgtrain.data.stores.sequential import ShardSource, StreamedShards
from tgtrain.evaluate.batch_norm import BatchNormMeasured, recompute_batch_norm
from tgtrain.evaluate.evaluate import EvalSettings, evaluate
from tgtrain.evaluate.results import EvalProtocol
from tgtrain.method.networks.model import build_model
from tgtrain.randomness import Choice, Stream, sample_seed
from tgtrain.ranks.distributed import Ranks
from tgtrain.train.preflight import notes
from tgtrain.train.trainer import RunError, train

PASSES = 16
SHARDS = 6


class Quiet(SimpleHTTPRequestHandler):
    """Python's own server of files: it sends them whole, whatever part is asked for."""

    def log_message(self, *arguments: object) -> None:
        return None


class Troubled(Quiet):
    """As a server in trouble: the first answers are errors, the next ones end in the middle of a file."""

    num_errors = num_cuts = 0

    def do_GET(self) -> None:
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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stream") / "set"
    write_data_set(place, num_shards=SHARDS)
    return place


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(root.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def streamed(root: Path, shards: str = "", *overrides: str) -> Setup:
    more = (f"data.shards={json.dumps(shards)}",) if shards else ()
    return setup_of(root, "data.reader=stream", *more, *overrides)


def batches_of(
    setup: Setup, num_steps: int, workers: int = 0, rank: int = 0, world_size: int = 1, first: int = 0
) -> list[SslBatch]:
    dataset = step_dataset(setup, replace(ALONE, rank=rank, world_size=world_size))
    return list(step_loader(dataset, range(first, first + num_steps), workers, pin=False))


def matches(setup: Setup, batch: ClipBatch, stream: Stream) -> list[tuple[str, int]]:
    """(key, pass) of each clip: the pass for which the indexed reader cuts these very pixels."""
    assert batch.rgb is not None
    assert batch.tg is not None
    indexed = setup_of(Path(setup.manifest.root))
    dataset = step_dataset(indexed, ALONE)
    found = []
    for row, key in enumerate(batch.keys):
        video = indexed.split.key.index(key)
        facts = indexed.reader.index[video]
        for pass_index in range(PASSES):
            rng = sample_seed(dataset.seed, stream, pass_index, key, Choice.CLIP)
            (plan,) = plan_train(facts.num_frames, facts.height, facts.width, dataset.clip, rng)
            clip = indexed.reader.read(video, plan)
            if np.array_equal(clip.rgb, batch.rgb[row].numpy()) and np.array_equal(clip.tg, batch.tg[row].numpy()):  # type: ignore[arg-type]
                found.append((key, pass_index))
                break
        else:
            raise AssertionError(f"clip of {key} is none of the indexed reader")
    return found


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12))
def test_slots_share_all_videos(shards: list[int], total: int) -> None:
    there = np.array(shards, np.int64)
    shares = [share_of(there, Slot(number, total)).tolist() for number in range(total)]
    assert all(shares)
    assert set().union(*shares) == set(range(len(shards)))
    counted = Counter(place for share in shares if len(share) < len(shards) for place in share)
    assert all(count == 1 for count in counted.values()) or total == 1
    if len(set(shards)) >= total:
        assert sorted(place for share in shares for place in share) == list(range(len(shards)))
        assert all(len({shards[place] for place in share} & {shards[p] for p in other}) == 0
                   for share in shares for other in shares if share is not other)  # fmt: skip


@pytest.mark.parametrize("way", ["folder", "pipe", "http"])
@pytest.mark.parametrize("workers", [0, 2])
def test_clips_are_those_of_the_indexed_reader(root: Path, server: str, way: str, workers: int) -> None:
    template = {
        "folder": "",
        "pipe": f"pipe:cat {shlex.quote(str(root))}/{{shard}}",
        "http": f"{server}/set/{{shard}}",
    }[way]
    setup = streamed(root, template)
    dataset = step_dataset(setup, ALONE)
    batches = batches_of(setup, 6, workers)
    assert [batch.step for batch in batches] == list(range(6))
    for batch in batches:
        assert batch.unlabelled is not None
        for part, stream in ((batch.labelled, Stream.LABELLED), (batch.unlabelled, Stream.UNLABELLED)):
            assert len(part.keys) == 4
            assert part.bad == ()
            assert part.labels.tolist() == [int(key[5]) for key in part.keys]
            met = matches(setup, part, stream)
        # The strong view of a clip is that of its pass too.
        expected = [dataset._strong(Stream.UNLABELLED, pass_index, key) for key, pass_index in met]
        plans = [plan for pair in zip(batch.strong_rgb, batch.strong_tg, strict=True) for plan in pair]
        flat = [plan for pair in expected for plan in (pair[0] if isinstance(pair, list) else pair)]
        assert plans == flat


def flow_of(
    setup: Setup, slot: Slot, *, num_before: int = 0, buffer_clips: int = 4, kind: type[ClipBuffer] = ClipBuffer
) -> ClipBuffer:
    dataset = step_dataset(setup, ALONE)
    assert dataset.unlabelled is not None
    assert isinstance(setup.reader.shards, StreamedShards)

    def plan(facts: object, pass_index: int) -> object:
        return plan_train(20, 48, 64, dataset.clip, np.random.default_rng(pass_index))

    return kind(
        setup.reader, setup.reader.shards.source, dataset.unlabelled.videos, plan, seed=1, stream_id=Stream.UNLABELLED,  # type: ignore[arg-type]
        slot=slot, num_before=num_before, buffer_clips=buffer_clips,
    )  # fmt: skip


@pytest.mark.parametrize("total", [1, 2, 5, 12])
def test_every_video_once_a_pass_and_shuffled(root: Path, total: int) -> None:
    setup = streamed(root)
    for number in range(0, total, 3):
        flow = flow_of(setup, Slot(number, total))
        videos_of_slot = len(flow.own)
        drawn = list(islice(flow.draws(), 4 * videos_of_slot))
        assert all(isinstance(met, WaitingClips) for met in drawn)
        seen = Counter((met.pass_index, met.place) for met in drawn if isinstance(met, WaitingClips))
        assert set(seen.values()) == {1}
        # What waits in the buffer is all that may be left out of the passes before the last.
        whole = [pair for pair in seen if pair[0] < 3]
        assert len(whole) >= 3 * videos_of_slot - 4
    one = [met.place for met in islice(flow_of(setup, Slot(0, 1)).draws(), 24) if isinstance(met, WaitingClips)]
    stored = [met.place for met in islice(flow_of(setup, Slot(0, 1)).passes(), 24) if isinstance(met, WaitingClips)]
    assert one != stored
    assert stored[:12] != stored[12:]


class _Watched(ClipBuffer):
    """A flow that counts the bytes of the clips that have come in."""

    came: list[int]

    def passes(self) -> Iterator[WaitingClips | str]:
        self.came = []
        for met in super().passes():
            assert isinstance(met, WaitingClips)
            self.came.append(met.sample.num_bytes)
            yield met


@pytest.mark.parametrize(
    ("buffer_clips", "num_bytes", "fewest", "most"),
    [(5, 10**9, 4, 4), (100, 10**9, 11, 11), (100, 60_000, 2, 8)],  # of 12 videos; a clip's JPEGs take 8 to 12 kB
)
def test_the_buffer_is_bounded(
    root: Path, buffer_clips: int, num_bytes: int, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In clips, in clips of a pass, and in bytes: what has come in and not gone out again."""
    monkeypatch.setattr("tgtrain.data.sequential_batches.BUFFER_BYTES", num_bytes)
    flow = flow_of(streamed(root), Slot(0, 1), buffer_clips=buffer_clips, kind=_Watched)
    assert isinstance(flow, _Watched)
    out = 0
    held = []
    for number, met in enumerate(islice(flow.draws(), 60)):
        assert isinstance(met, WaitingClips)
        out += met.sample.num_bytes
        held.append(len(flow.came) - number - 1)
        assert sum(flow.came) - out < num_bytes
    assert fewest <= max(held) <= most
    assert held[0] == 1  # the first clip does not wait for the buffer to be full


def test_a_resume_begins_at_the_shard_where_it_was(root: Path) -> None:
    """12 unlabelled videos, 3 in each of 4 shards: 12 before is the second pass, 18 and 20 are the third shard in it."""
    setup = streamed(root)

    def met(num_before: int, count: int) -> list[tuple[int, int]]:
        flow = flow_of(setup, Slot(0, 1), num_before=num_before)
        return [
            (clip.pass_index, clip.place) for clip in islice(flow.passes(), count) if isinstance(clip, WaitingClips)
        ]

    whole = met(0, 36)
    assert met(12, 24) == whole[12:]
    assert met(18, 12) == met(20, 12) == whole[18:30]
    for one, other in zip(batches_of(setup, 2, first=7), batches_of(setup, 2, first=7), strict=True):
        assert one.labelled.keys == other.labelled.keys


@pytest.mark.parametrize("form", ["stored", "derived", "slow", "flow", "video", "rgb"])
def test_the_kept_bytes_are_enough_in_every_form(videos: Path, tmp_path: Path, form: str) -> None:
    options = {"derived": {"gradient": "derived"}, "flow": {"flow": "dis"}, "video": {"store": "video"}}.get(form, {})
    manifest = extract_all(videos, tmp_path / "set", **options)
    keys = manifest.videos.column("key")
    indexed = open_reader(manifest, keys)
    reader = open_reader(manifest, keys, stream=ShardSource(manifest.root))
    gradient = {"slow": "slow", "flow": "flow", "rgb": "none"}.get(form, "fast")
    clip = ClipSettings(clip_frames=4, interval=3, size=32, num_clips=2, gradient=gradient)  # type: ignore[arg-type]
    tg = form != "rgb"

    def plan(facts: object, pass_index: int) -> object:
        rng = sample_seed(0, 0, pass_index, facts.key, Choice.CLIP)  # type: ignore[attr-defined]
        return plan_train(facts.num_frames, facts.height, facts.width, clip, rng)  # type: ignore[attr-defined]

    flow = ClipBuffer(
        reader, ShardSource(manifest.root), np.arange(len(keys)), plan, seed=0, stream_id=0, slot=Slot(0, 1), num_before=0,  # type: ignore[arg-type]
        buffer_clips=3, tg=tg,
    )  # fmt: skip
    _, sizes = reader.index.extents()
    for met in islice(flow.draws(), 2 * len(keys)):
        assert isinstance(met, WaitingClips), met
        assert met.sample.num_bytes < int(sizes[met.place])
        clips = flow.read(met)
        expected = indexed.read_views(met.place, met.plans, tg=tg)
        for one, other in zip(clips, expected, strict=True):
            assert np.array_equal(one.rgb, other.rgb)
            assert (one.tg is None and other.tg is None) or np.array_equal(one.tg, other.tg)  # type: ignore[arg-type]


def cut_short(root: Path) -> tuple[str, set[str]]:
    """Where shards come from that end behind their first two samples, and the keys of the third samples."""
    manifest = read_manifest(root)
    by_offset = sorted(manifest.videos, key=lambda row: row.sample_offset)
    last = {next(row.key for row in by_offset[::-1] if row.shard == shard.name) for shard in manifest.shards}
    cut = min(row.sample_offset for row in manifest.videos if row.key in last) + 700
    return f"pipe:head -c {cut} {shlex.quote(str(root))}/{{shard}}", last


def test_a_shard_cut_short_costs_its_last_samples_which_are_named(root: Path) -> None:
    """The third sample of each does not come, and is counted once a pass."""
    template, last = cut_short(root)
    setup = streamed(root, template)
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


def test_damage_inside_a_shard_is_named_and_the_rest_comes(make_data_set: Callable[..., Path]) -> None:
    root = make_data_set()
    manifest = read_manifest(root)
    split = read_split(root)
    victim = next(row for row in manifest.videos if split.unlabelled[split.key.index(row.key)])
    with (root / victim.shard).open("r+b") as shard:
        shard.seek(victim.members.rgb_offset)
        shard.write(bytes(victim.members.rgb_bytes))
    batches = batches_of(streamed(root), 6)
    bad = [reason for batch in batches if batch.unlabelled for reason in batch.unlabelled.bad]
    assert bad
    assert all(reason.startswith(f"{victim.key} in {victim.shard}: RGB frame ") for reason in bad)
    assert victim.key not in {key for batch in batches if batch.unlabelled for key in batch.unlabelled.keys}


def test_a_stream_that_breaks_once_loses_nothing(root: Path, tmp_path: Path) -> None:
    once = f"{tmp_path}/{{shard}}"
    where = f"{shlex.quote(str(root))}/{{shard}}"
    template = f"pipe:if [ -e {once} ]; then cat {where}; else touch {once}; head -c 30000 {where}; exit 3; fi"
    setup = streamed(root, template)
    batches = batches_of(setup, 6)
    assert len(list(tmp_path.iterdir())) >= 2
    for batch, other in zip(batches, batches_of(streamed(root), 6), strict=True):
        assert batch.labelled.bad == ()
        assert batch.labelled.keys == other.labelled.keys


def test_a_web_server_in_trouble_costs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are waited out with one warning; a file that was cut on its way is read again."""
    told: list[str] = []
    monkeypatch.setattr(stores, "_warning_handler", lambda place, text: told.append(text))
    monkeypatch.setattr(stores, "_trouble", {})
    monkeypatch.setattr(stores, "_heard", None)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Troubled, directory=str(root.parent))) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        Troubled.num_errors, Troubled.num_cuts = 2, 2
        batches = batches_of(streamed(root, f"http://127.0.0.1:{running.server_port}/set/{{shard}}"), 6)
        running.shutdown()
    assert (Troubled.num_errors, Troubled.num_cuts) == (0, 0)
    for batch, other in zip(batches, batches_of(streamed(root), 6), strict=True):
        assert batch.unlabelled is not None
        assert batch.labelled.bad == batch.unlabelled.bad == ()
        assert batch.labelled.keys == other.labelled.keys
    (warning,) = told
    assert "does not answer (503" in warning


def test_a_web_server_that_refuses_is_not_asked_again() -> None:
    class Refusing(Quiet):
        num_asked = 0

        def do_GET(self) -> None:
            Refusing.num_asked += 1
            self.send_error(403)

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=r"dataset.json: the store refuses the request \(403"):
            read_manifest(f"http://127.0.0.1:{running.server_port}/set")
        running.shutdown()
    assert Refusing.num_asked == 1


def test_a_command_that_fails_is_named(root: Path) -> None:
    name = read_manifest(root).shards[0].name
    setup = streamed(root, f"pipe:test {{shard}} != {name} && cat {shlex.quote(str(root))}/{{shard}}")
    bad = {reason for batch in batches_of(setup, 9) for reason in (*batch.labelled.bad, *batch.unlabelled.bad)}  # type: ignore[union-attr]
    assert bad
    assert all(f" in {name}: `test {name} != {name}" in reason and "ended with code 1" in reason for reason in bad)
    with pytest.raises(
        InputError, match=r"No sample can be read from \d shards, the last: .*`exit 7 # shard-.*` ended with code 7"
    ):
        batches_of(streamed(root, "pipe:exit 7 # {shard}"), 1)


def test_two_ranks_do_the_same_number_of_steps_on_videos_of_their_own(root: Path) -> None:
    setup = streamed(root)
    keys: list[set[str]] = []
    for rank in range(2):
        batches = batches_of(setup, 9, workers=1, rank=rank, world_size=2)
        assert [batch.step for batch in batches] == list(range(9))
        assert all(len(batch.labelled.keys) == len(batch.unlabelled.keys) == 2 for batch in batches)  # type: ignore[union-attr]
        keys.append({key for batch in batches for key in batch.unlabelled.keys})  # type: ignore[union-attr]
    assert not keys[0] & keys[1]
    split = read_split(root)
    assert keys[0] | keys[1] == {key for key, flag in zip(split.key, split.unlabelled, strict=True) if flag}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_scores_every_video_as_the_indexed_reader_does(root: Path, server: str, workers: int) -> None:
    results = []
    opened: list[str] = []
    for setup in (setup_of(root), streamed(root, f"{server}/set/{{shard}}")):
        model = build_model(setup.config.model, seed=0)
        places = setup.videos("test")
        if isinstance(setup.reader.shards, StreamedShards) and not workers:
            samples = ShardSource.samples
            source = setup.reader.shards.source
            object.__setattr__(setup.reader.shards, "source", _Counting(source, opened, samples))
        results.append(evaluate(model, setup, places, EvalSettings(EvalProtocol(2, 1)), ALONE, workers=workers))
    one, other = results
    assert one.keys == other.keys
    assert len(one.keys) == 6
    assert np.array_equal(one.scores, other.scores)
    assert one.bad == other.bad == ()
    assert not opened or max(Counter(opened).values()) == 1  # forward through each shard, once


class _Counting:
    def __init__(self, source: ShardSource, opened: list[str], samples: Callable[..., object]) -> None:
        self.source, self.opened, self.of = source, opened, samples

    def samples(self, shard: str) -> object:
        self.opened.append(shard)
        return self.of(self.source, shard)


def test_precise_statistics_come_from_streams(root: Path) -> None:
    """Of one batch of all train videos they do not depend on the order: those of the indexed reader up to rounding.

    A buffer of one clip shuffles nothing, so that the first twelve clips are those of the twelve videos.
    """
    found = []
    whole = ("batch.labelled=12", "precise_bn.batches=1")
    for setup in (setup_of(root, *whole), streamed(root, "", *whole, "data.shuffle_clips=1")):
        model = build_model(setup.config.model, seed=0)
        assert recompute_batch_norm(model, setup, ALONE) == BatchNormMeasured(1, ())
        found.append({name: value for name, value in model.state_dict().items() if "running_" in name})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=5e-3, atol=1e-4)


def test_a_run_over_http_without_ranges_from_its_start_to_its_test(root: Path, server: str, tmp_path: Path) -> None:
    words = ["--recipe", "demo", *(word for text in SMALL for word in ("--set", text))]

    def call(*more: str, expected: int = 0) -> Result:
        done = CliRunner().invoke(tgtrain, list(more))
        assert done.exit_code == expected, done.output + str(done.exception or "")
        return done

    run = str(tmp_path / "run")
    streaming = ("--set", "data.reader=stream", "--out", run)
    stopped = call("run", f"{server}/set", *words, *streaming, "--max-steps", "3")
    assert stopped.stderr.count("note: data.reader=stream reads whole shards") == 1
    assert "a resumed run goes on at the beginning of about the shard" in stopped.stderr
    done = call("run", f"{server}/set", *words, *streaming)
    assert "resumed at step 3 of 12" in done.stderr
    assert [record["step"] for record in records(tmp_path / "run", "evaluate")] == [6, 12]
    over_http = json.loads(call("test", run, "--views", "1x1", "--json").stdout)
    local = json.loads(call("test", run, "--views", "1x1", "--data", str(root), "--json").stdout)
    assert over_http["top1@1x1"] == local["top1@1x1"]
    page = tmp_path / "page.html"
    assert "could not be read" not in call("report", run, "--output", str(page)).output
    assert page.read_text().count("data:image/jpeg") >= 6


def test_the_indexed_reader_says_what_such_a_server_needs(root: Path, server: str, tmp_path: Path) -> None:
    config = load_recipe("demo", [*SMALL, f"runtime.cache={tmp_path}/cache", "runtime.cache_gb=1"], num_classes=3)
    setup = prepare(f"{server}/set", read_split(root), read_manifest(f"{server}/set"), config)
    (plan,) = plan_train(20, 48, 64, setup.clip, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"sends whole files where a part is asked for.*--set data\.reader=stream"):
        setup.reader.read(0, plan)


def test_too_much_damage_stops_a_streamed_run(root: Path, tmp_path: Path) -> None:
    template, _ = cut_short(root)
    with pytest.raises(RunError, match="runtime.max_bad_fraction allows 0.001"):
        train(
            streamed(root, template, "runtime.max_bad_fraction=0.001"), tmp_path / "run", ALONE, log=lambda text: None
        )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data.reader=stream", "data.shards=/elsewhere"), r"expected \{shard\} in it"),
        (("data.shards=/elsewhere/{shard}",), "data.shards is set, which data.reader=stream alone reads"),
        (("data.reader=stream", "data.block_shards=2"), "data.shuffle_clips is its like"),
        (("data.reader=streams",), "data.reader"),
    ],
)
def test_what_cannot_be_meant_is_refused(root: Path, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        setup_of(root, *overrides)


def test_fewer_shards_than_processes_are_told(root: Path) -> None:
    assert not any("fewer than" in note for note in notes(streamed(root, "", "runtime.workers=6")))
    assert "6 shards are fewer than 7 loader processes: some read the same shard, each its part" in notes(
        streamed(root, "", "runtime.workers=7")
    )


def test_an_order_that_streams_do_not_have_is_refused(root: Path) -> None:
    setup = streamed(root, "", 'compat.quirks=["fixed_labelled_order"]')
    with pytest.raises(InputError, match=r"data.reader=stream cannot have compat.quirks fixed_labelled_order"):
        step_dataset(setup, Ranks(0, 1, torch.device("cpu")))


def test_names_of_shards_are_no_commands() -> None:
    source = ShardSource("", "pipe:cat /set/{shard}")
    assert source.place("a; rm b.tar") == "pipe:cat /set/'a; rm b.tar'"


def test_prepare_asks_no_listing_of_a_place_without_one(root: Path, tmp_path: Path) -> None:
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
