"""Measure whether a single frame of the sample data set shows the class, and whether a clip does.

Renders a sample, decodes the files, trains the same small network on single frames (2D) and on clips of 8 frames (3D) of some groups, and
tests on the other groups. The single frames must stay at chance, the clips must not.

    python benchmarks/sample_single_frame.py --output benchmarks/results/sample_single_frame.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import av
import cv2
import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from manifests.machine import processor_name
from tgprep.obtain.sample import SampleSettings, render_sample, sample_videos

CLIP_FRAMES = 8
SIDE_PIXELS = 64
Images = npt.NDArray[np.uint8]


def decode(path: Path, interval: int) -> Images:
    """The first frames of a video at `interval`, from frame 0: uint8[8, 64, 64, 3], the picture squeezed to a square."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picked = frames[: CLIP_FRAMES * interval : interval]
    assert len(picked) == CLIP_FRAMES, path
    return np.stack([cv2.resize(frame, (SIDE_PIXELS, SIDE_PIXELS), interpolation=cv2.INTER_AREA) for frame in picked])


def network(num_classes: int, width: int, depth: int) -> nn.Sequential:
    """Four convolution blocks and a linear layer; `depth` is the kernel's extent in time: 3 for clips, 1 for single frames."""
    layers: list[nn.Module] = []
    channels = 3
    for block in range(4):
        following = width * 2 ** min(block, 2)
        stride = (2 if depth > 1 and block in (1, 2) else 1, 2, 2)
        layers += [
            nn.Conv3d(channels, following, (depth, 3, 3), stride, (depth // 2, 1, 1), bias=False),
            nn.BatchNorm3d(following),
            nn.ReLU(),
        ]
        channels = following
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def augment(clips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift every clip by up to 6 pixels, round the edges, and flip half of them: uint8[N, T, 64, 64, 3] to float32[N, 3, T, 64, 64]."""
    moved = []
    for clip in clips:
        shift = torch.randint(-6, 7, (2,), generator=generator).tolist()
        clip = clip.roll(shift, (1, 2))
        moved.append(clip.flip(2) if torch.rand((), generator=generator) < 0.5 else clip)
    return to_input(torch.stack(moved))


def to_input(clips: torch.Tensor) -> torch.Tensor:
    return clips.permute(0, 4, 1, 2, 3).float() / 64 - 2


def train_and_test(
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    *,
    num_classes: int,
    width: int,
    depth: int,
    num_steps: int,
    batch: int,
    seed: int,
) -> tuple[float, float]:
    """(train accuracy of the last tenth of the steps, test accuracy). Inputs uint8[N, T, 64, 64, 3], labels int64[N]."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = network(num_classes, width, depth)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=num_steps)
    right: list[float] = []
    for _ in range(num_steps):
        rows = torch.randint(len(train[0]), (batch,), generator=generator)
        logits = model(augment(train[0][rows], generator))
        labels = train[1][rows]
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right.append(float((logits.argmax(1) == labels).float().mean()))
    model.eval()
    with torch.inference_mode():
        guesses = torch.cat([model(to_input(part)).argmax(1) for part in test[0].split(64)])
    return float(np.mean(right[-max(1, num_steps // 10) :])), float((guesses == test[1]).float().mean())


def measure(arguments: argparse.Namespace, settings: SampleSettings) -> tuple[dict[str, float], int]:
    """Render the sample, train on both inputs; return the figures and the number of test videos."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        paths = render_sample(Path(folder) / "videos", settings, num_workers=arguments.workers)
        render_seconds = time.perf_counter() - start
        clips = np.stack(
            joblib.Parallel(arguments.workers)(joblib.delayed(decode)(p, arguments.interval) for p in paths)
        )
    videos = sample_videos(settings)
    labels = np.array([settings.class_names.index(video.class_name) for video in videos])
    tested = np.array([video.group <= arguments.test_groups for video in videos])

    def part(rows: npt.NDArray[np.bool_], *, single: bool) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = torch.from_numpy(clips[rows]), torch.from_numpy(labels[rows])
        if single:
            return images.flatten(0, 1)[:, None], targets.repeat_interleave(CLIP_FRAMES)
        return images, targets

    # A frame's guesses are not independent within a video: the bound counts videos.
    num_videos, chance = int(tested.sum()), 1 / arguments.classes
    figures: dict[str, float] = {
        "chance": chance,
        "three_sigma_over_chance": chance + 3 * math.sqrt(chance * (1 - chance) / num_videos),
        "render_seconds": render_seconds,
    }
    for name, single, batch in (("single_frame", True, 128), ("clip", False, 32)):
        start = time.perf_counter()
        train_accuracy, test_accuracy = train_and_test(
            part(~tested, single=single),
            part(tested, single=single),
            num_classes=arguments.classes,
            width=arguments.width,
            depth=1 if single else 3,
            num_steps=arguments.steps,
            batch=batch,
            seed=arguments.seed,
        )
        figures |= {
            f"{name}_train_accuracy": train_accuracy,
            f"{name}_test_accuracy": test_accuracy,
            f"{name}_seconds": time.perf_counter() - start,
        }
    return figures, num_videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--groups", type=int, default=110)
    parser.add_argument("--test-groups", type=int, default=50)
    parser.add_argument("--interval", type=int, default=8)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    load = round(os.getloadavg()[0], 2)  # of others: the machine may be shared
    settings = SampleSettings(
        num_classes=arguments.classes, num_groups=arguments.groups, clips_per_group=1, seed=arguments.seed
    )
    figures, num_videos = measure(arguments, settings)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": processor_name(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load": load,
        },
        "versions": {m.__name__: m.__version__ for m in (av, cv2, np, torch)} | {"python": platform.python_version()},
        "settings": {k: v for k, v in vars(arguments).items() if k != "output"}
        | {"sample": dataclasses.asdict(settings), "num_test_videos": num_videos},
        "figures": {name: round(value, 4) for name, value in figures.items()},
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
