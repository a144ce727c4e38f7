"""Weights that a run starts from: find the file, match its tensors to the networks, and report what was matched.

The file is read when a run begins. Afterwards its checkpoints hold the weights, and its config.json what was matched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.files import digest_of, open_location
from manifests.records import InputError
from tgtrain.config import Config
from tgtrain.data.setup import Setup, padded_classes
from tgtrain.method.networks.model import outline
from tgtrain.method.networks.names import COUNTER, Found, join, networks_in, other_network, sibling
from tgtrain.run import checkpoint as checkpoints
from tgtrain.run import pretrained
from tgtrain.run.folder import CONFIG_NAME, Matched, read_facts
from tgtrain.run.state_file import load_tensors

_LEAST_SHARE = 0.8  # of the tensors of a backbone
_MOST_NAMES = 400  # of each kind that config.json holds
_SHOWN_NAMES = 4
# Which network of a file a network of ours starts from, the best first; "" is one whose names do not say its view.
_PREFERRED = {"rgb": ("rgb", "", "net", "tg"), "tg": ("tg", "rgb", "", "net"), "net": ("net", "rgb", "", "tg")}
# Copies of a network that follow it: the one that learnt is taken.
_FOLLOWERS = re.compile(r"(^|[._])(ema|swa|teacher|momentum|encoder_k|key|target)([._]|$)")


@dataclass(frozen=True, slots=True)
class Initial:
    """Where a run starts instead of random weights. tensors: float32, by their names in the model; those of scratch are absent."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    matched: tuple[Matched, ...] = ()


def identify(setup: Setup, run: Path) -> Setup:
    """The setup with the sha256 of the files that its model starts from.

    A run that has begun needs them no more: if one is gone, its sha256 comes from the run. InputError if a file is missing or
    changed.
    """
    model = setup.config.model
    if model.init == "required":
        raise InputError(
            f"The recipe {setup.config.name} starts from weights: name them with --init PATH (a run, a checkpoint, a file of "
            "torchvision, MMAction2 or safetensors, or a folder of transformers). To train from scratch, use the recipe that it "
            "extends."
        )
    facts = read_facts(run) if (run / CONFIG_NAME).exists() else None
    found: dict[str, Any] = {}
    for network, name in (("rgb", "init"), ("tg", "init_tg")):
        typed, pinned = model.start_of(network)
        if not typed or (name == "init_tg" and model.init_tg == "same"):
            continue
        # The same words as before name the same file; if they name a run, its checkpoint of then.
        before = ""
        if facts is not None and getattr(facts.config.model, name) == typed:
            before = getattr(facts.config.model, f"{name}_sha256")
        path = _file_of(typed, before)
        digest = before if before and not path.exists() else _digest(path)
        if facts is None:
            pretrained.require_same_network(path, model)
        if before and digest != before:
            raise InputError(
                f"{path} has changed since {run} began: sha256 {digest[:16]}… now, {before[:16]}… then. Restore it, or remove it, "
                "since the checkpoints of the run hold its weights; to start from what it is now, name another folder with --out."
            )
        if pinned and digest != pinned:
            raise InputError(
                f"{path} is not the file that model.{name}_sha256 names: sha256 {digest[:16]}…, expected {pinned[:16]}…."
            )
        found[f"{name}_sha256"] = digest
    if model.streams == "two" and model.init_tg == "same" and found:
        found["init_tg_sha256"] = found["init_sha256"]  # so that it differs from scratch
    return replace(setup, config=replace(setup.config, model=replace(model, **found))) if found else setup


def read_initial(setup: Setup) -> Initial:
    """The weights that a new run starts from, see `identify`. InputError, with the table, if a file does not fit the model."""
    config = setup.config
    shapes = {name: tuple(value.shape) for name, value in outline(config.model).state_dict().items()}
    networks = {"two": ("rgb", "tg"), "joint": ("net",)}.get(config.model.streams, (config.model.streams,))
    taken: dict[str, Tensor] = {}
    matched: list[Matched] = []
    for typed, digest in dict.fromkeys(config.model.start_of(network) for network in networks):
        if not typed:
            continue
        path = _file_of(typed, digest)
        source = _Source(path, digest, config)
        for network in networks:
            if config.model.start_of(network)[0] == typed:
                own = {name: shape for name, shape in shapes.items() if _belongs(name, network)}
                tensors, row = source.match(network, own, setup.classes)
                taken |= tensors
                matched.append(row)
        first = len(matched) - len(source.rows)
        matched[first:] = source.finished()
    return Initial(taken, tuple(matched))


def table(matched: tuple[Matched, ...]) -> list[str]:
    """Lines about what networks start from."""
    lines = []
    for row in matched:
        where = f" below {row.prefix}" if row.prefix else ""
        kinds = {
            "missing": (row.num_missing, row.missing),
            "misshapen": (len(row.misshapen), row.misshapen),
            "left over": (row.num_left_over, row.left_over),
        }
        lines += [
            f"weights of {row.network} from {row.path} (names of {row.naming}{where}, sha256 {row.sha256[:16]}):",
            f"  tensors: {row.num_matched} of {row.num_tensors} matched, "
            + ", ".join(f"{count} {kind}" for kind, (count, _) in kinds.items()),
            f"  classifier {row.classifier}",
        ]
        for kind, (count, names) in kinds.items():
            more = f" and {count - _SHOWN_NAMES} more" if count > _SHOWN_NAMES else ""
            lines += [f"  {kind}: {', '.join(names[:_SHOWN_NAMES])}{more}"] if count else []
    return lines


class _Source:
    """One file of weights."""

    def __init__(self, path: Path, digest: str, config: Config) -> None:
        self.path, self.digest, self.config = path, digest, config
        try:
            with open_location(str(path)) as file:
                if digest_of(file)[0] != digest:
                    raise InputError(f"{path} changes while it is read. Wait until it is complete.")
                file.seek(0)
                self.tensors = load_tensors(file)
        except ValueError as error:
            raise InputError(
                f"{path} is no file of weights that can be read: {error}. Expected a state dict that torch.save wrote, or safetensors. "
                "If it holds other objects and you trust it, write its tensors alone into a file: "
                "torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW_PATH)."
            ) from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
        self.classes = _classes_of(path)
        self.used: set[str] = set()
        self.rows: list[Matched] = []

    def match(
        self, network: str, own: Mapping[str, tuple[int, ...]], classes: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Matched]:
        """The tensors for one of our networks, by their names in the model, and what was matched. own: its names and shapes."""
        backbone = {name.removeprefix(f"{network}."): name for name in own if name.startswith(f"{network}.")}
        counted = [name for name in backbone if not name.endswith(COUNTER)]
        found = self._choose(networks_in(self.tensors, counted), network, len(counted))
        theirs = {} if found is None else {
            backbone[ours]: join(found.prefix, name) for name, ours in found.naming.backbone(backbone).items()
        }  # fmt: skip
        taken, missing, misshapen = self._take({name: theirs.get(name, "") for name in backbone.values()}, own)
        num_matched = sum(not name.endswith(COUNTER) for name in taken)
        head = next(name.removesuffix(".weight") for name in own if name.endswith(".fc.weight"))
        classifier = "new"
        if found is not None:
            projection = {name: found.projection(name) for name in own if name.startswith("project_")}
            taken |= self._take(projection, own)[0]
            tensors, classifier = self._classifier(found.classifier, own[f"{head}.weight"], classes)
            taken |= {f"{head}.{part}": value for part, value in tensors.items()}
        row = Matched(
            network, str(self.path), self.digest, found.naming.name if found else "no network that is known",
            found.prefix if found else "", num_matched, len(counted), len(missing), tuple(missing[:_MOST_NAMES]),
            tuple(misshapen[:_MOST_NAMES]), classifier,
        )  # fmt: skip
        self.rows.append(row)
        shapes = {name: tuple(value.shape) for name, value in self.tensors.items() if name.startswith(row.prefix)}
        # Most tensors of a sibling fit, and mean something else.
        if num_matched < _LEAST_SHARE * len(counted) or sibling(shapes):
            self._refuse(row, other_network(shapes))
        return taken, row

    def finished(self) -> list[Matched]:
        """What was matched, with the tensors of the file that no network took."""
        left = [name for name in self.tensors if name not in self.used and not name.endswith(COUNTER)]
        return [replace(row, num_left_over=len(left), left_over=tuple(left[:_MOST_NAMES])) for row in self.rows]

    def _choose(self, found: list[Found], network: str, num_tensors: int) -> Found | None:
        """The network of the file that one of ours starts from; None if it has none. InputError if two are as good."""
        complete = [each for each in found if each.num_names >= _LEAST_SHARE * num_tensors] or found[:1]
        for view in _PREFERRED[network]:
            best = [each for each in complete if each.view == view]
            best = [each for each in best if each.num_names == best[0].num_names]
            if len(best) > 1:
                best = [each for each in best if not _FOLLOWERS.search(each.prefix)] or best
            if len(best) > 1 and not all(self._same(best[0], each) for each in best[1:]):
                names = ", ".join(each.prefix or "(none)" for each in best)
                raise InputError(
                    f"{self.path} holds {len(best)} networks that fit {network}, below the names {names}. Keep one of them in a file "
                    "of its own."
                )
            if best:
                return best[0]
        return None

    def _same(self, one: Found, other: Found) -> bool:
        """Whether two networks of the file hold the same values, as copies below two names do."""

        def values(each: Found) -> dict[str, Tensor]:
            start = f"{each.prefix}." if each.prefix else ""
            return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}

        first, second = values(one), values(other)
        return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    def _take(
        self, theirs: Mapping[str, str], own: Mapping[str, tuple[int, ...]]
    ) -> tuple[dict[str, Tensor], list[str], list[str]]:
        """Tensors by our names, names that are missing, and what is misshapen. theirs: their names by ours."""
        taken, missing, misshapen = dict[str, Tensor](), list[str](), list[str]()
        for name, their in theirs.items():
            value = self.tensors.get(their)
            self.used.add(their)
            if value is None:
                if not name.endswith(COUNTER):
                    missing.append(name)
            elif tuple(value.shape) != own[name] or not (value.is_floating_point() or name.endswith(COUNTER)):
                there, here = ("x".join(map(str, shape)) or "a number" for shape in (value.shape, own[name]))
                misshapen.append(f"{name} ({there} {str(value.dtype).removeprefix('torch.')} there, {here} here)")
            else:
                taken[name] = self._checked(their, value)
        return taken, missing, misshapen

    def _checked(self, name: str, value: Tensor) -> Tensor:
        """A tensor as float32 (a counter as it is). InputError if it holds what no network can have learnt."""
        if name.endswith(COUNTER):
            return value.long()
        value = value.to(torch.float32)
        if not value.isfinite().all() or (name.endswith("running_var") and bool((value < 0).any())):
            raise InputError(
                f"{self.path}: {name} holds values that are not finite, or variances below 0. Use another file."
            )
        return value

    def _classifier(self, name: str, shape: tuple[int, ...], classes: tuple[str, ...]) -> tuple[dict[str, Tensor], str]:
        """Weight and bias for our classes, and a clause about them; {} for a new one."""
        weight, bias = (self.tensors.get(join(name, part)) if name else None for part in ("weight", "bias"))
        if weight is None or bias is None or weight.dim() != 2 or not weight.is_floating_point():
            return {}, "new: the file has none"
        num_classes, width = weight.shape
        if width != shape[1] or tuple(bias.shape) != (num_classes,):
            return {}, f"new: {width} features there, {shape[1]} here"
        if self.classes is not None and set(self.classes) != set(classes):
            return (
                {},
                f"new: {num_classes} classes there, {shape[0]} here, of which {len(set(self.classes) & set(classes))} are the same",
            )
        if num_classes != shape[0]:
            return {}, f"new: {num_classes} classes there, {shape[0]} here"
        self.used |= {join(name, "weight"), join(name, "bias")}
        values = {part: self._checked(join(name, part), value) for part, value in (("weight", weight), ("bias", bias))}
        if self.classes is None:
            return values, f"kept: {num_classes} classes there and here (the file does not name them)"
        rows = [self.classes.index(each) for each in classes]
        return {part: value[rows] for part, value in values.items()}, f"kept: the same {num_classes} classes"

    def _refuse(self, row: Matched, kind: str) -> None:
        model = self.config.model
        lines = "\n  ".join(table(tuple(self.finished())[-1:]))
        raise InputError(
            f"{self.path} does not fit the network {row.network} ({model.backbone}, {model.size}): "
            f"{row.num_matched} of {row.num_tensors} tensors match, expected {_LEAST_SHARE:.0%}."
            f"{f' It seems to be {kind}.' if kind else ''} Name weights of the same network, set model.backbone and its size "
            f"({model.size}) to theirs, or start from scratch.\n  {lines}"
        )


def _belongs(name: str, network: str) -> bool:
    """Whether a tensor of the model is part of a network, its classifier or its projection; a shared one is that of RGB."""
    module = name.partition(".")[0]
    view = "tg" if network == "tg" else "rgb"
    return module in (network, f"head_{view}", f"project_{view}") or (module == "project_shared" and view == "rgb")


def _file_of(typed: str, digest: str = "") -> Path:
    """The absolute path of a file of weights, which may be gone; InputError for what cannot be one.

    digest: of the file if it is known. Of a run its checkpoint with this sha256, or its last one if none is given.
    """
    if "://" in typed:
        raise InputError(
            f"{typed}: weights are read from a local file. Download it (curl -LO {typed}) and name the file."
        )
    path = Path(typed).expanduser().absolute()
    if path.is_dir() and (weights := pretrained.weights_of(path)):
        return weights
    if (path / CONFIG_NAME).is_file():
        if not digest:
            return checkpoints.find(path, "last")
        same = [each for each in checkpoints.list_checkpoints(path) if _recorded_digest(each) == digest]
        return same[0] if same else path / checkpoints.FOLDER / f"of-sha256-{digest}.pt"  # removed as it went on
    if path.is_dir():
        raise InputError(
            f"{path} is no run and no file of weights. Name a file, or a folder that `tgtrain run` or transformers made."
        )
    return path


def _digest(path: Path) -> str:
    """The sha256 of a file; InputError if it cannot be read, or is a damaged checkpoint of ours."""
    try:
        with open_location(str(path)) as file:
            digest, _ = digest_of(file)
    except FileNotFoundError:
        raise InputError(
            f"No file {path} to start from. Name weights with --init, or start from scratch without it."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    expected = _recorded_digest(path)
    if expected and digest != expected:
        raise InputError(
            f"{path} is damaged: sha256 {digest[:16]}…, expected {expected[:16]}…. Use another checkpoint of the run."
        )
    return digest


def _recorded_digest(path: Path) -> str:
    """The sha256 in the file beside a checkpoint of ours; "" if there is none."""
    try:
        return checkpoints.digest_of(path)
    except (OSError, ValueError, IndexError):
        return ""


def _classes_of(path: Path) -> tuple[str, ...] | None:
    """The classes of a checkpoint that lies in its run, or of weights in a folder of transformers; None if they are not known."""
    if (classes := pretrained.classes_of(path)) is not None:
        return classes
    try:
        facts = read_facts(path.parent.parent)
    except InputError:
        return None
    return padded_classes(facts.data.classes, facts.config.model.num_classes)
