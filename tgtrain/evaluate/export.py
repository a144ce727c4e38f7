"""Export one network of a trained model for other programs, as ONNX or a torch.export program, and check the result.

The exported network takes frames as a video decoder gives them and normalises them itself: `clips` uint8[B, T, H, W, 3]
RGB in, `logits` float32[B, K] out; B, H and W are free (from 33 pixels). A transformer takes its training size alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manifests.files import atomic_write
from manifests.records import InputError
from tgtrain.data.crop import reference_pixels
from tgtrain.data.setup import clip_settings
from tgtrain.method.augment.apply import MEAN, STD
from tgtrain.method.networks.settings import View
from tgtrain.run.trained import Trained

Form = Literal["onnx", "torch"]
OPSET = 17
MIN_FREE_SIZE = 33  # pixels: torch.export cannot leave a size free that shrinks to one pixel in the network
TOLERANCE = 1e-3  # of the largest logit: float32 sums in another order
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}


class ExportError(Exception):
    """The exported network gives other logits than the model; its file is not kept."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported network."""

    path: Path
    view: View
    num_frames: int
    """Of a clip."""
    size: int
    """Height and width that the network was trained at, pixels."""
    one_size: bool
    """It takes clips of that size alone."""
    num_classes: int
    num_bytes: int
    largest_difference: float | None
    """Between the logits of file and model on random clips, as a fraction of the largest logit; None if not checked."""
    note: str
    """Why it was not checked, "" if it was."""


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
        logits: Tensor = self.head(self.backbone.pool(self.backbone(values)))
        return logits


def export(trained: Trained, path: Path, form: Form, view: View = "rgb") -> Exported:
    """Write the network of a view to `path` after comparing its logits with the model's.

    Raises InputError if a package is missing or the run has no such network, ExportError if the comparison fails.
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
    facts = _facts(trained, view)
    one_size = trained.config.model.is_transformer
    content = _onnx(network, clips, facts, one_size) if form == "onnx" else _program(network, clips, facts, one_size)
    difference, note = _difference(network, content, form, clips, one_size)
    if difference is not None and not difference <= TOLERANCE:
        raise ExportError(
            f"the exported network gives other logits than the model (by {difference:.2g} of the largest)"
        )
    # Only a network that passed the comparison reaches its final name.
    with atomic_write(path) as file:
        file.write(content)
    num_classes = len(trained.classes)
    return Exported(path, view, data.clip_frames, data.size, one_size, num_classes, len(content), difference, note)


def _onnx(network: nn.Module, clips: Tensor, facts: dict[str, str], one_size: bool) -> bytes:
    try:
        import onnx
    except ModuleNotFoundError:
        raise InputError(
            "--format onnx needs onnx: pip install 'tgprep[export]'. (--format torch needs nothing more.)"
        ) from None
    buffer = io.BytesIO()
    sides = {} if one_size else {2: "height", 3: "width"}
    with _quiet():
        # The older exporter: the newer one needs onnxscript and gives the same operators.
        torch.onnx.export(
            network,
            (clips,),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["clips"],
            output_names=["logits"],
            dynamic_axes={"clips": {0: "batch", **sides}, "logits": {0: "batch"}},
        )
    # The exporter has no argument for metadata.
    model = onnx.load_from_string(buffer.getvalue())
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _program(network: nn.Module, clips: Tensor, facts: dict[str, str], one_size: bool) -> bytes:
    with _quiet():
        free = {0: torch.export.Dim("batch", min=1, max=65536)}
        if clips.shape[2] >= MIN_FREE_SIZE and not one_size:
            free[2] = torch.export.Dim("height", min=MIN_FREE_SIZE, max=4096)
            free[3] = torch.export.Dim("width", min=MIN_FREE_SIZE, max=4096)
        program = torch.export.export(network, (clips,), dynamic_shapes={"clips": free})
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"tgtrain.json": json.dumps(facts)})
    return buffer.getvalue()


def _difference(
    network: nn.Module, content: bytes, form: Form, clips: Tensor, one_size: bool
) -> tuple[float | None, str]:
    """Largest difference over batches of several sizes, as a fraction of the largest logit; or why it is unknown."""
    try:
        run = _runner(content, form)
    except ModuleNotFoundError:
        return None, "not checked: onnxruntime is missing (pip install 'tgprep[export]')"
    worst = 0.0
    frames, size = clips.shape[1:3]
    larger = size + size // 7 if size >= MIN_FREE_SIZE and not one_size else size  # the crops of a 10x3 test
    for number, side in ((1, size), (3, size), (1, larger)):
        clips = _clips(number, frames, side, seed=number)
        with torch.no_grad():
            expected, got = network(clips).numpy(), np.asarray(run(clips), np.float32)
        if got.shape != expected.shape:
            raise ExportError(
                f"the exported network gives {list(got.shape)} for {number} clips, the model {list(expected.shape)}"
            )
        worst = max(worst, float(np.abs(got - expected).max() / max(1e-6, np.abs(expected).max())))
    return worst, ""


def _runner(content: bytes, form: Form) -> Callable[[Tensor], npt.ArrayLike]:
    """The exported network, called on uint8 clips. ModuleNotFoundError without onnxruntime."""
    if form == "torch":
        program: Callable[[Tensor], npt.ArrayLike] = torch.export.load(io.BytesIO(content)).module()
        return program
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["logits"], {"clips": clips.numpy()})[0]


def _clips(number: int, frames: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, frames, size, size, 3), dtype=torch.uint8, generator=generator)


def _facts(trained: Trained, view: View) -> dict[str, str]:
    """Metadata that users of the file need: class names, and how clips are cut."""
    clip = clip_settings(trained.config)
    cutting = {
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
        "input": json.dumps(cutting),
        "origin": json.dumps({**trained.origin, "recipe": trained.config.name}),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what the exporters print and warn of; the comparison afterwards is what counts."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # noqa: PTH123
        warnings.simplefilter("ignore")
        yield
