"""One rank of the test of sequences: reads batches with real loader workers and writes what the ranks together were given.

python -m tests.train.sequence_worker DATA OUT FIRST_STEP LAST_STEP WORKERS KILLED_AT   (rank and world size as torchrun sets them)
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from manifests.splits import read_split
from manifests.store import read_manifest
from tgtrain.batch import ClipBatch, step_loader
from tgtrain.config import load_recipe
from tgtrain.distributed import joined
from tgtrain.run import prepare
from tgtrain.sources import step_dataset

SETTINGS = (
    "data.clip_frames=2", "data.interval=2", "data.size=16", "batch.labelled=4", "batch.unlabelled=8", "model.width=4",
)  # fmt: skip


def shown(batch: ClipBatch) -> list[list[str]]:
    """Key and digest of the pixels of each clip."""
    assert batch.rgb is not None
    assert batch.tg is not None
    return [
        [key, hashlib.sha256(rgb.numpy().tobytes() + tg.numpy().tobytes()).hexdigest()[:16]]
        for key, rgb, tg in zip(batch.keys, batch.rgb, batch.tg, strict=True)
    ]


def main() -> None:
    root, out, first, last, workers, killed_at = sys.argv[1:]
    with joined("cpu") as ranks, Path(out).open("a", encoding="utf-8") as file:
        setup = prepare(root, read_split(root), read_manifest(root), load_recipe("demo", SETTINGS, num_classes=3))
        for batch in step_loader(step_dataset(setup, ranks), range(int(first), int(last)), int(workers), pin=False):
            if batch.step == int(killed_at) and ranks.rank == ranks.world_size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            assert batch.unlabelled is not None
            parts = ranks.gather((shown(batch.labelled), shown(batch.unlabelled)))
            together = [[part[stream][i] for i in range(len(parts[0][stream])) for part in parts] for stream in (0, 1)]
            if ranks.is_main:
                file.write(json.dumps([batch.step, *together]) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
