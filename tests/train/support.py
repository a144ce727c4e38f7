"""What tests of training share: small data sets, short runs and what they leave behind."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from manifests.gradient import temporal_gradient
from manifests.manifest_io import file_sha256, read_manifest, write_manifest
from manifests.records import WRITTEN, GradientCoding, ManifestHeader, ShardRow, VideoRow
from manifests.sample import EncodedVideo, FrameSpool, write_end, write_sample
from manifests.splits.label_split import LabelSplit, make_split, read_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tgtrain.config import load_recipe
from tgtrain.data.batch import SslBatch, StepDataset
from tgtrain.data.clip import ClipSettings
from tgtrain.data.order import StreamOrder, StreamSource
from tgtrain.data.reader import open_reader
from tgtrain.data.setup import Setup, prepare
from tgtrain.method.augment.plan import StrongSettings
from tgtrain.randomness import Stream
from tgtrain.ranks.distributed import Ranks
from tgtrain.run.checkpoint import list_checkpoints, load
from tgtrain.train.trainer import Outcome, train

HEIGHT, WIDTH = 48, 64
ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=4",
    "optimiser.epochs=4", "optimiser.warmup_epochs=1", "method.warmup_epochs=1", "precise_bn.batches=2",
    "evaluate.every_epochs=2", "runtime.log_every=2", "runtime.workers=0", "method.threshold=0.2", "model.dropout=0.5",
)  # fmt: skip
TINY = (
    "data.clip_frames=4", "data.interval=2", "data.size=32", "batch.labelled=4", "batch.unlabelled=4", "model.width=2",
    "optimiser.epochs=4", "optimiser.warmup_epochs=1", "method.warmup_epochs=1", "precise_bn.batches=2",
    "evaluate.every_epochs=1", "evaluate.keep=2", "runtime.log_every=1", "method.threshold=0.2", "model.dropout=0.5",
)  # fmt: skip


def frame(label: int, number: int, index: int) -> npt.NDArray[np.uint8]:
    """A picture that tells class, video and frame: a block that moves down (class 0), right (1) or stays (2)."""
    picture = np.full((HEIGHT, WIDTH, 3), (30 + 5 * number, 60, 90), np.uint8)
    row, column = {0: (index % 32, 20), 1: (16, index % 48), 2: (16, 20)}[label % 3]
    picture[row : row + 12, column : column + 12] = (220, 200 - 7 * number, 40)
    return picture


def _spool(pictures: list[npt.NDArray[np.uint8]]) -> FrameSpool:
    spool = FrameSpool(io.BytesIO())
    for picture in pictures:
        spool.append(simplejpeg.encode_jpeg(picture, 95, "RGB", "444"))
    return spool


def write_data_set(
    root: Path, num_classes: int = 3, groups: int = 6, num_frames: int = 20, stored_tg: bool = True, num_shards: int = 2
) -> tuple[Manifest, LabelSplit]:
    """A data set of num_classes x groups videos (the last two groups test) with one 50 % split, in num_shards shards."""
    root.mkdir(parents=True)
    rows: list[VideoRow] = []
    shards: list[ShardRow] = []
    videos = [(label, group) for group in range(groups) for label in range(num_classes)]
    each = -(-len(videos) // num_shards)
    for number, part in enumerate(videos[start : start + each] for start in range(0, len(videos), each)):
        name = f"shard-{number:06d}.tar"
        with (root / name).open("w+b") as tar:
            for label, group in part:
                pictures = [frame(label, group, index) for index in range(num_frames)]
                gradients = [temporal_gradient(a, b) for a, b in zip(pictures, pictures[1:], strict=False)]
                key = f"class{label}/v_{group:02d}"
                encoded = EncodedVideo(key, {"key": key}, _spool(pictures), _spool(gradients) if stored_tg else None)
                offset, size, members = write_sample(tar, encoded)
                subset = "test" if group >= groups - 2 else "train"
                rows.append(
                    VideoRow(
                        key=key, path=f"{key}.avi", class_name=f"class{label}", label=label, group=f"g{group:02d}",
                        subsets=(subset,), status=WRITTEN, shard=name, sample_offset=offset, sample_bytes=size,
                        members=members, num_frames=num_frames, height=HEIGHT, width=WIDTH, fps=25.0,
                    )
                )  # fmt: skip
            write_end(tar)
        shards.append(ShardRow(name, len(part), (root / name).stat().st_size, file_sha256(root / name)))
    header = ManifestHeader(
        dataset="folder",
        classes=tuple(f"class{label}" for label in range(num_classes)),
        gradient=GradientCoding(space="rgb") if stored_tg else GradientCoding("jpeg", "rgb", stored=False),
        settings={"quality": 95},
        versions={},
        num_folds=1,
        num_written=len(rows),
    )
    manifest = write_manifest(root, header, sorted(rows, key=lambda row: row.key), shards)
    split = make_split(manifest, SplitSettings(percent=50, strategy="stratified"))
    write_split(root, split)
    return manifest, split


def setup_of(root: Path, *overrides: str, recipe: str = "demo") -> Setup:
    manifest = read_manifest(root)
    return prepare(str(root), read_split(root), manifest, load_recipe(recipe, [*SMALL, *overrides], num_classes=3))


def run(root: Path, folder: Path, *overrides: str, recipe: str = "demo", **options: object) -> Outcome:
    return train(setup_of(root, *overrides, recipe=recipe), folder, ALONE, log=lambda text: None, **options)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint."""
    found = load(list_checkpoints(folder)[-1])
    flat = {f"model.{name}": value for name, value in found.model.items()}
    for part in ("thresholds", "teacher", "running"):
        flat |= {f"{part}.{name}": value for name, value in getattr(found, part).items()}
    return flat | momenta(found.optimiser)


def momenta(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors in the state of an optimiser: `momentum.N` of SGD, `momentum.N.exp_avg` and so on of AdamW."""
    return {
        f"momentum.{number}" + (f".{name}" if name != "momentum_buffer" else ""): value
        for number, of_weight in state["state"].items()
        for name, value in of_weight.items()
    }


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def records(folder: Path, kind: str) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def run_outcome(folder: Path) -> dict[str, Any]:
    """All that must be equal: checkpoints and what each holds, the best one, and every figure that is no time or memory."""
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, Any] = {"best": json.loads((folder / "checkpoints" / "best.json").read_bytes())}
    for path in list_checkpoints(folder):
        found = load(path)
        found.extra["settings"]["runtime"].pop("workers")  # the same run with any number of them
        if (counts := found.extra.pop("class_counts", None)) is not None:
            tensors[f"{path.name}.class_counts"] = counts
        facts[path.name] = (found.step, found.measured, found.extra)
        for part in ("model", "thresholds", "teacher", "running"):
            tensors |= {f"{path.name}.{part}.{name}": value for name, value in getattr(found, part).items()}
        tensors |= {f"{path.name}.{name}": value for name, value in momenta(found.optimiser).items()}
    timed = ("clips_per_second", "seconds", "waiting", "memory")
    facts["metrics"] = [
        {name: value for name, value in json.loads(line).items() if not any(part in name for part in timed)}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    return {"tensors": tensors, "facts": facts}


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read the process's stderr up to a line with the text, and return what it has printed."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"ended without {text!r}: {said}")


def dataset_of(root: Path, labelled: int = 4, unlabelled: int = 8) -> StepDataset:
    manifest, split = read_manifest(root), read_split(root)

    def source(part: str, size: int, stream: Stream) -> StreamSource:
        videos = np.flatnonzero(split.part(part))
        order = StreamOrder(len(videos), size, 3, stream)
        return StreamSource(videos, split.label[videos].astype(np.int64), order)

    return StepDataset(
        reader=open_reader(manifest, split.key),
        labelled=source("labelled", labelled, Stream.LABELLED),
        unlabelled=source("unlabelled", unlabelled, Stream.UNLABELLED),
        clip=ClipSettings(clip_frames=4, interval=2, size=32),
        strong=StrongSettings(),
        seed=3,
    )


def assert_same_batch(one: SslBatch, other: SslBatch) -> None:
    assert one.step == other.step
    for first, second in ((one.labelled, other.labelled), (one.unlabelled, other.unlabelled)):
        assert first is not None
        assert second is not None
        assert first.keys == second.keys
        for name in ("rgb", "tg", "labels"):
            assert torch.equal(getattr(first, name), getattr(second, name))
    assert one.strong_rgb == other.strong_rgb
    assert one.strong_tg == other.strong_tg


def replace_rank(dataset: StepDataset, rank: int, world_size: int) -> StepDataset:
    return replace(dataset, rank=rank, world_size=world_size)


def could_be_even(counts: npt.ArrayLike) -> bool:
    """Whether counts over equally likely outcomes are plausible: chi-square under its mean + 4 standard deviations."""
    observed = np.asarray(counts, dtype=float)
    statistic = ((observed - observed.mean()) ** 2 / observed.mean()).sum()
    freedom = len(observed) - 1
    return bool(statistic < freedom + 4 * np.sqrt(2 * freedom))
