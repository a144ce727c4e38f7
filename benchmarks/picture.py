"""Write docs/frames.jpg: frames and temporal gradients of four videos of `tgprep sample`, read from their shards.

python benchmarks/picture.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from manifests.manifest_io import read_manifest
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tgprep import extract
from tgprep.obtain.sample import SampleSettings, render_sample
from tgtrain import open_dataset

CLASSES = {"SwingSideways": "swing", "Grow": "grow", "MoveDown": "move down", "Spin": "spin"}
FRAMES, INTERVAL, GAP, TITLE = 4, 5, 8, 34
WIDTH, HEIGHT = 192, 144
OUTPUT = Path(__file__).parents[1] / "docs" / "frames.jpg"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos, out = Path(folder, "videos"), Path(folder, "dataset")
        render_sample(
            videos, SampleSettings(num_classes=8, num_groups=2, clips_per_group=1, width=WIDTH, height=HEIGHT, seed=5)
        )
        extract(videos, out, dataset="folder")
        write_split(out, make_split(read_manifest(out), SplitSettings(percent=50)))
        clips = open_dataset(out, part="all", clip_frames=FRAMES, interval=INTERVAL, sampling="uniform", num_clips=1, crop="none", size=None)  # fmt: skip
        found = {str(item["key"]).split("/")[0]: item for item in (clips[index] for index in range(len(clips)))}
    width, height = FRAMES * WIDTH, TITLE + 2 * HEIGHT
    picture = Image.new("RGB", (2 * width + 3 * GAP, 2 * height + 3 * GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=24)
    for number, (name, title) in enumerate(CLASSES.items()):
        x, y = GAP + number % 2 * (width + GAP), GAP + number // 2 * (height + GAP)
        draw.text((x, y), title, "black", font)
        for row, view in enumerate(("rgb", "tg")):
            strip = np.concatenate(list(np.asarray(found[name][view])), axis=1)
            picture.paste(Image.fromarray(strip), (x, y + TITLE + row * HEIGHT))
    picture.save(OUTPUT, quality=88)
    print(f"{OUTPUT}: {picture.size[0]} x {picture.size[1]}, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
