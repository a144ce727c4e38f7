"""One network of a trained model as a file for other programs: ONNX, or a program of torch.export; checked after it is written.

What is exported takes frames as a video decoder gives them and normalises them itself, so that nothing has to be agreed
on but which frames are taken: `clips` uint8[B, T, H, W, 3] RGB in, `logits` float32[B, K] out; B, H and W are free (from 33 pixels).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manifests.manifest_io import atomic_write
from manifests.records import InputError
from tgtrain.data.crop import reference_pixels
from tgtrain.data.setup import clip_settings
from tgtrain.method.augment.apply import MEAN, STD
from tgtrain.method.networks.model import View
from tgtrain.run.trained import Trained

Form = Literal["onnx", "torch"]
OPSET = 17
SMALLEST_FREE = 33  # pixels: torch.export takes a picture that shrinks to one pixel on its way for another program
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


class ExportError(Exception):
    """The file does not say what the model says; it is not kept."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. num_frames: of a clip. size: height and width that the network was trained at, pixels.

    largest_difference: between the file's logits and the model's on random clips, as a part of the largest logit; None
    unchecked. note: why it was not checked, "" where it was.
    """

    path: Path
    view: View
    num_frames: int
    size: int
    num_classes: int
    num_bytes: int
    largest_difference: float | None
    note: str


class ClipClassifier(nn.Module):
    """Backbone and classifier of one view, normalisation included: uint8[B, T, H, W, 3] -> logits float32[B, K]."""

    def __init__(self, trained: Trained, view: View) -> None:
        super().__init__()
        model = trained.model
        self.backbone = model.backbone(view)
        joint = trained.config.model.streams == "joint"
        self.head = model.get_submodule("head_rgb" if joint else f"head_{view}")
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(STD).view(1, 3, 1, 1, 1))
        self.mean: Tensor
        self.scale: Tensor
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        values = (clips.permute(0, 4, 1, 2, 3).float() - self.mean) * self.scale
        logits: Tensor = self.head(self.backbone(values)[-1].mean(dim=(2, 3, 4)))
        return logits


def export(trained: Trained, path: Path, form: Form, view: View = "rgb") -> Exported:
    """Write the network of a view to `path` and compare what the file says with what the model says.

    Raises InputError where a package is missing or the run has no such network, ExportError where the comparison fails.
    """
    if view not in trained.views:
        raise InputError(f"{trained.run} trained no network for {view}, only for {' and '.join(trained.views)}.")
    if view == "tg" and trained.config.data.gradient == "slow":
        raise InputError(
            "A network of slow TG takes differences of frames, not pictures: it cannot be exported as one."
        )
    network = ClipClassifier(trained, view)
    data = trained.config.data
    clips = _clips(2, data.clip_frames, data.size)
    told = _facts(trained, view)
    content = _onnx(network, clips, told) if form == "onnx" else _program(network, clips, told)
    difference, note = _difference(network, content, form, data.clip_frames, data.size)
    if difference is not None and not difference <= TOLERANCE:
        raise ExportError(
            f"the exported network answers otherwise than the model (by {difference:.2g} of its largest logit)"
        )
    with atomic_write(path) as file:
        file.write(content)
    return Exported(path, view, data.clip_frames, data.size, len(trained.classes), len(content), difference, note)


def _onnx(network: nn.Module, clips: Tensor, told: dict[str, str]) -> bytes:
    try:
        import onnx
    except ModuleNotFoundError:
        raise InputError(
            "--format onnx needs onnx: pip install 'tgprep[export]'. (--format torch needs nothing more.)"
        ) from None
    buffer = io.BytesIO()
    with _quiet():
        # The exporter that needs no further package; the newer one wants onnxscript and gives the same operators.
        torch.onnx.export(
            network,
            (clips,),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["clips"],
            output_names=["logits"],
            dynamic_axes={"clips": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    for key, value in told.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _program(network: nn.Module, clips: Tensor, told: dict[str, str]) -> bytes:
    with _quiet():
        free = {0: torch.export.Dim("batch", min=1, max=65536)}
        if clips.shape[2] >= SMALLEST_FREE:
            free[2] = torch.export.Dim("height", min=SMALLEST_FREE, max=4096)
            free[3] = torch.export.Dim("width", min=SMALLEST_FREE, max=4096)
        program = torch.export.export(network, (clips,), dynamic_shapes={"clips": free})
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"tgtrain.json": json.dumps(told)})
    return buffer.getvalue()


def _difference(network: nn.Module, content: bytes, form: Form, frames: int, size: int) -> tuple[float | None, str]:
    """Largest difference on clips of several numbers and sizes, as a part of the largest logit; or why there is none."""
    try:
        answer = _onnx_answer(content) if form == "onnx" else _program_answer(content)
    except ModuleNotFoundError:
        return None, "not checked: onnxruntime is missing (pip install 'tgprep[export]')"
    worst = 0.0
    larger = size + size // 7 if size >= SMALLEST_FREE else size  # the crops of a 10x3 test
    for number, side in ((1, size), (3, size), (1, larger)):
        clips = _clips(number, frames, side, seed=number)
        with torch.no_grad():
            expected = network(clips).numpy()
        got = answer(clips)
        if got.shape != expected.shape:
            raise ExportError(
                f"the exported network gives {list(got.shape)} for {number} clips, the model {list(expected.shape)}"
            )
        worst = max(worst, float(np.abs(got - expected).max() / max(1e-6, np.abs(expected).max())))
    return worst, ""


def _onnx_answer(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def answer(clips: Tensor) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(["logits"], {"clips": clips.numpy()})[0], np.float32)

    return answer


def _program_answer(content: bytes) -> Any:
    program = torch.export.load(io.BytesIO(content)).module()

    def answer(clips: Tensor) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(program(clips).numpy(), np.float32)

    return answer


def _clips(number: int, frames: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, frames, size, size, 3), dtype=torch.uint8, generator=generator)


def _facts(trained: Trained, view: View) -> dict[str, str]:
    """What a user of the file must know, as text: class names, and how clips are cut."""
    clip = clip_settings(trained.config)
    how = {
        "view": view,
        "frames": clip.clip_frames,
        "interval": clip.interval,
        "short_side_pixels": reference_pixels(256, clip.size),
        "crop_pixels": clip.size,
        "colour": "RGB, uint8" if view == "rgb" else "floor((frame - next frame + 255) / 2) of RGB, uint8",
        "average_over_views": trained.config.evaluate.average,
    }
    return {
        "classes": json.dumps(trained.classes, ensure_ascii=False),
        "input": json.dumps(how),
        "origin": json.dumps({**trained.origin, "recipe": trained.config.name}),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of themselves, on stderr and through warnings; what matters is the comparison afterwards."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # noqa: PTH123
        warnings.simplefilter("ignore")
        yield
