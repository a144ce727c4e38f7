"""A table of videos without shards, and targets for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manifests.manifest_io import write_manifest
from manifests.records import GradientCoding, ManifestHeader, VideoRow
from manifests.table import Manifest
from manifests.targets.target_file import Probabilities, Targets

CLASSES = ("Archery", "Basket Ball", "Cut")
TEST_GROUP = 3


def manifest_of(root: Path, groups: int = 4) -> Manifest:
    """A data set of `groups` videos a class, the last of each a test video, and one without a label; nothing of it can be read."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        VideoRow(
            key=f"{name.replace(' ', '_')}/v_{group:02d}", path=f"{name}/v_{group:02d}.avi", class_name=name, label=label,
            group=f"g{group:02d}", subsets=("test" if group == TEST_GROUP else "train",), status="written", num_frames=20,
        )
        for label, name in enumerate(CLASSES)
        for group in range(groups)
    ]  # fmt: skip
    rows.append(
        VideoRow(key="unlabelled/extra", path="unlabelled/extra.avi", class_name="", label=-1, group="", subsets=("train",),
                 status="written", num_frames=20)
    )  # fmt: skip
    header = ManifestHeader("folder", CLASSES, GradientCoding(), {"quality": 95}, {}, 1, len(rows))
    return write_manifest(root, header, sorted(rows, key=lambda row: row.key), [])


def targets_of(manifest: Manifest, name: str = "made", seed: int = 0, keys: tuple[str, ...] = ()) -> Targets:
    """Targets of all videos, or of some."""
    chosen = tuple(sorted(keys or manifest.videos.column("key")))
    return Targets(name, chosen, random_rows(len(chosen), seed), CLASSES, {"made": "in a test"})


def random_rows(number: int, seed: int = 0) -> Probabilities:
    """Rows of probabilities."""
    values = np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), number).astype(np.float32)
    return values / values.sum(axis=1, keepdims=True)
