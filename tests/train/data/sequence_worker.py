"""One rank of the test of sequences: reads batches with real loader workers and writes what the ranks together were given.

python -m tests.train.data.sequence_worker DATA OUT FIRST_STEP LAST_STEP WORKERS KILLED_AT [SETTING...]   (rank and world size as torchrun sets them)
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tgtrain.config import load_recipe
from tgtrain.data.batch import ClipBatch, SslBatch
from tgtrain.data.build import step_dataset
from tgtrain.data.loader import step_loader
from tgtrain.data.setup import prepare
from tgtrain.ranks.distributed import process_group

SETTINGS = (
    "data.clip_frames=2", "data.interval=2", "data.size=16", "batch.labelled=4", "batch.unlabelled=8", "model.width=4",
)  # fmt: skip


def shown(batch: SslBatch) -> tuple[list[list[str]], list[list[str]]]:
    """Labelled and unlabelled: key of each clip, and a digest of its pixels and of what the strong view does to it."""
    assert batch.unlabelled is not None
    assert len(batch.strong_rgb) == len(batch.strong_tg) == len(batch.unlabelled.keys)
    plans = [repr(pair) for pair in zip(batch.strong_rgb, batch.strong_tg, strict=True)]
    return _digests(batch.labelled, [""] * len(batch.labelled.keys)), _digests(batch.unlabelled, plans)


def _digests(clips: ClipBatch, plans: list[str]) -> list[list[str]]:
    assert clips.rgb is not None
    assert clips.tg is not None
    return [
        [key, hashlib.sha256(rgb.numpy().tobytes() + tg.numpy().tobytes() + plan.encode()).hexdigest()[:16]]
        for key, rgb, tg, plan in zip(clips.keys, clips.rgb, clips.tg, plans, strict=True)
    ]


def main() -> None:
    root, out, first, last, workers, killed_at, *settings = sys.argv[1:]
    with process_group("cpu") as ranks, Path(out).open("a", encoding="utf-8") as file:
        config = load_recipe("demo", (*SETTINGS, *settings), num_classes=3)
        setup = prepare(root, read_split(root), read_manifest(root), config)
        for batch in step_loader(step_dataset(setup, ranks), range(int(first), int(last)), int(workers), pin=False):
            if batch.step == int(killed_at) and ranks.rank == ranks.world_size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            parts = ranks.gather(shown(batch))
            together = [[part[stream][i] for i in range(len(parts[0][stream])) for part in parts] for stream in (0, 1)]
            if ranks.is_main:
                file.write(json.dumps([batch.step, *together]) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
