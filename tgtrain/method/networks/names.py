"""Names that other libraries give to the tensors of our backbones, and how a file with such names is recognised.

Sources: torchvision/models/video/resnet.py, MMAction2 0.16 (ResNet3d, I3DHead) with the heads of the reference code, the
ResNets of pytorchvideo, and the names of image ResNets, which 3D-ResNets-PyTorch keeps; for a transformer the VideoMAE of
transformers 5 and 4 (models/videomae/modeling_videomae.py, and conversion_mapping.py for what changed).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

COUNTER = ".num_batches_tracked"  # of BatchNorm; some files lack it, and nothing depends on it
Network = str  # a submodule of our model that is a backbone: rgb, tg, or net for both views


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of one network in a file, below what they have in common: its backbone and its classifier."""

    backbone: str = ""
    classifier: str = "fc"


@dataclass(frozen=True, slots=True)
class Naming:
    """How a library names the tensors of a network."""

    name: str
    rules: tuple[tuple[str, str], ...]
    """Regular expressions, applied one after the other, that make its names of ours."""
    parts: Mapping[Network, Parts] = field(default_factory=lambda: {"": Parts()})
    """Of the networks that a file of it may hold; "" for one whose view is not known."""
    projection: str = ""
    """Its name of our projection; {} stands for rgb, tg or shared. "": it has none."""
    layers: tuple[str, ...] = ()
    """Its names of the layers fc1, bn1, fc2, bn2, fc3 and bn3 of a projection."""

    def backbone(self, own_names: Iterable[str]) -> dict[str, str]:
        """Our name of each tensor of a backbone, by its name in this library."""
        return {self._translated(own): own for own in own_names}

    def _translated(self, own: str) -> str:
        for pattern, replacement in self.rules:
            own = re.sub(pattern, replacement, own)
        return own


# `stage2.block0` of ours is `layer2.0` of these, `shortcut` is `downsample`.
_LAYERS = ((r"stage(\d)\.block(\d+)", r"layer\1.\2"), (r"shortcut", "downsample"))
_ABC = tuple((rf"(conv|bn){number}\.", rf"branch2.\1_{letter}.") for number, letter in zip("123", "abc", strict=True))
_PROJECTION = ("fc1", "bn1", "fc2", "bn2", "fc3", "bn3")
OWN = Naming(
    "tgtrain",
    (),
    {
        "rgb": Parts("rgb", "head_rgb.fc"),
        "tg": Parts("tg", "head_tg.fc"),
        "net": Parts("net", "head_rgb.fc"),
    },
    "project_{}",
    _PROJECTION,
)
NAMINGS = (
    OWN,
    Naming(
        "MMAction2",
        (
            (r"stem\.", "conv1."),
            (r"(stage\d\.block\d+)\.conv(\d)\.", r"\1.conv\2.conv."),
            (r"(stage\d\.block\d+)\.bn(\d)\.", r"\1.conv\2.bn."),
            *_LAYERS,
        ),
        {
            "rgb": Parts("backbone", "cls_head.fc_cls"),
            "tg": Parts("temp_backbone", "temp_sup_head.fc_cls"),
        },
        "contrast_head_{}.fcs",
        ("0", "1", "3", "4", "6", "8"),
    ),
    Naming(
        "torchvision",
        (
            (r"stem\.conv", "stem.0"),
            (r"stem\.bn", "stem.1"),
            (r"\.conv(\d)\.", r".conv\1.0."),
            (r"\.bn(\d)\.", r".conv\1.1."),
            (r"shortcut\.conv", "shortcut.0"),
            (r"shortcut\.bn", "shortcut.1"),
            *_LAYERS,
        ),
    ),
    Naming(
        "image ResNets",
        (
            (r"stem\.(conv|bn)", r"\g<1>1"),
            (r"shortcut\.conv", "shortcut.0"),
            (r"shortcut\.bn", "shortcut.1"),
            *_LAYERS,
        ),
    ),
    Naming(
        "pytorchvideo",
        (
            (r"shortcut\.(conv|bn)", r"branch1_\1"),
            *_ABC,
            (r"stage(\d)\.block(\d+)", r"blocks.\1.res_blocks.\2"),
            (r"^stem\.", "blocks.0."),
            (r"\bbn\b|(?<=_)bn\b|\bbn(?=_)", "norm"),
        ),
        {"": Parts("", "blocks.5.proj")},
    ),
)


_MODEL = (r"^(embeddings|encoder)\.", r"videomae.\1.")  # with a head the backbone is a part; `fc_norm` is beside it
_BIASES = ((r"attention\.query\.bias", "attention.q_bias"), (r"attention\.value\.bias", "attention.v_bias"))
_HEAD = {"": Parts("", "classifier")}
# Ours are the names of VideoMAEModel.
NAMINGS_OF_TRANSFORMERS = (
    Naming("transformers", (_MODEL,), _HEAD),
    Naming("transformers 4", (_MODEL, *_BIASES), _HEAD),
    Naming("transformers", (), OWN.parts, OWN.projection, OWN.layers),
    Naming("transformers 4", _BIASES, {}),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A network in a file."""

    naming: Naming
    prefix: str
    """What stands before the names of its backbone."""
    num_names: int
    """Names of the backbone that are there, without counters."""

    @property
    def view(self) -> Network:
        """Which of our networks it is; "" if the names do not say so."""
        own = self.prefix.rpartition(".")[2]
        views = [view for view, parts in self.naming.parts.items() if parts.backbone and parts.backbone == own]
        return views[0] if views else ""

    @property
    def classifier(self) -> str:
        """The name of its classifier in the file; "" if its names do not say so."""
        known = self.naming.parts.get(self.view)
        return join(self._above, known.classifier) if known else ""

    def projection(self, own: str) -> str:
        """The name in the file of a tensor of a projection, such as `project_rgb.fc1.weight`; "" if it has none."""
        module, _, rest = own.partition(".")
        layer, _, tensor = rest.partition(".")
        if not self.naming.projection:
            return ""
        theirs = self.naming.projection.format(module.removeprefix("project_"))
        return join(self._above, theirs, self.naming.layers[_PROJECTION.index(layer)], tensor)

    @property
    def _above(self) -> str:
        """What stands before the names of the backbone's own module."""
        known = self.naming.parts.get(self.view, Parts())
        return self.prefix[: len(self.prefix) - len(known.backbone)].rstrip(".")


def join(*parts: str) -> str:
    """Parts of a name, with dots between them."""
    return ".".join(filter(None, parts))


def networks_in(names: Iterable[str], own_names: Iterable[str]) -> list[Found]:
    """The networks like ours that a file holds, the most complete ones first.

    names: of the tensors in the file. own_names: of the tensors of our backbone. What stands before a name, however long, is
    found by matching the ends of names.
    """
    wanted = [own for own in own_names if not own.endswith(COUNTER)]
    is_transformer = any(own.startswith("encoder.") for own in wanted)
    theirs = [(naming, naming.backbone(wanted)) for naming in (NAMINGS_OF_TRANSFORMERS if is_transformer else NAMINGS)]
    most_parts = max(name.count(".") for _, backbone in theirs for name in backbone) + 1
    votes: list[dict[str, set[str]]] = [{} for _ in theirs]
    for name in names:
        for prefix, end in _cuts(name, most_parts):
            for (_, backbone), found in zip(theirs, votes, strict=True):
                if end in backbone:
                    found.setdefault(prefix, set()).add(name)
    # Two namings may find the same tensors, as `videomae.` is a part of a name or stands before it.
    different: dict[frozenset[str], Found] = {}
    for (naming, _), found in zip(theirs, votes, strict=True):
        for prefix, tensors in found.items():
            different.setdefault(frozenset(tensors), Found(naming, prefix, len(tensors)))
    return sorted(different.values(), key=lambda each: -each.num_names)


def _cuts(name: str, most_parts: int) -> Iterator[tuple[str, str]]:
    """A name cut at each of its last dots: what stands before, and the end of at most so many parts."""
    place = len(name)
    for _ in range(most_parts):
        place = name.rfind(".", 0, place)
        yield name[: max(0, place)], name[place + 1 :]
        if place < 0:
            return


def sibling(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of a network with other convolutions and nearly the names of R3D, from those of its tensors; "" if it is none."""
    if any(re.search(r"conv\d\.0\.0\.weight$", name) for name in shapes):
        return "R(2+1)D, as torchvision's r2plus1d_18: its 3-D convolutions are split into 2-D and 1-D ones"
    layers = [shape for name, shape in shapes.items() if re.search(r"layer[2-4]\.\d+\.conv\d\.0\.weight$", name)]
    if layers and all(shape[2:] == (1, 3, 3) for shape in layers):
        return "MC3, as torchvision's mc3_18: its later convolutions do not look along time"
    return ""


def other_network(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of a well-known network that is none of ours, from names and shapes of its tensors; "" if it is not known."""
    if kind := sibling(shapes):
        return kind
    if any(name.endswith(".attention.attention.query.weight") for name in shapes):
        return "a transformer of transformers: if it is VideoMAE, set model.backbone=videomae"
    if any(re.search(r"(attn|attention)\b.*\.weight$", name) for name in shapes):
        return "a transformer with other names than those of the package transformers"
    kernels = {len(shape) for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 2}
    return "a network for images: its convolutions have two dimensions" if kernels == {4} else ""
