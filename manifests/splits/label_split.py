"""Label splits: the labelled, unlabelled, validation and test videos of a data set; drawn from a Manifest, stored as Parquet."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.bounds import are_keys
from manifests.console import plural
from manifests.datasets import groups_span_classes
from manifests.disk import path_inside
from manifests.files import atomic_write, is_url, parse_json, read_bytes
from manifests.manifest_io import SPLITS_FOLDER, join
from manifests.object_store import call
from manifests.parquet import parquet_table, seal_holds, sealed_table_bytes, table_bytes
from manifests.records import InputError
from manifests.splits import draw
from manifests.splits.pool import Flags, Pool, of_their_sources, official_pool
from manifests.splits.settings import NAME_RULE, PARTS, SplitSettings, is_split_name
from manifests.table import Manifest

SPLIT_SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int32()), *((part, pa.bool_()) for part in PARTS)])
_PROVENANCE = b"tgprep.provenance"
_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True, eq=False)
class LabelSplit:
    """A split: one entry per video that is in any part, sorted by key."""

    name: str
    key: tuple[str, ...]
    label: npt.NDArray[np.int32]  # [N], as used in training
    labelled: Flags  # bool[N]
    unlabelled: Flags
    """Includes all videos without a label, and the labelled ones unless the split was made with `--unlabelled rest`."""
    validation: Flags
    test: Flags
    provenance: dict[str, str]  # the settings and lists that the split was made from

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in ("key", "label", *PARTS)}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"columns of a split differ in length: {sizes}")
        keys = pa.array(self.key, pa.string())
        if not pc.all(pc.less(keys[:-1], keys[1:]), min_count=0).as_py():
            raise ValueError("keys of a split must be unique and sorted")

    def __len__(self) -> int:
        return len(self.key)

    @property
    def train(self) -> Flags:
        """bool[N]: labelled or unlabelled."""
        return np.logical_or(self.labelled, self.unlabelled)

    def part(self, name: str) -> Flags:
        """The flags of one of PARTS, or of `train`."""
        flags: Flags = getattr(self, name)
        return flags

    def keys_of(self, part: str) -> list[str]:
        """Keys of one of PARTS, sorted."""
        return [self.key[place] for place in np.flatnonzero(self.part(part))]


def make_split(manifest: Manifest, settings: SplitSettings, dropped: Collection[str] = ()) -> LabelSplit:
    """Draw a split from the written videos. The same keys, labels and settings give the same split on every machine.

    dropped: keys of videos without a label that are left out.

    InputError if a part would be empty or the fold does not exist.
    """
    pool = official_pool(manifest, settings.fold, settings.pool)
    train, validation, test = pool.train.copy(), pool.validation.copy(), pool.test.copy()
    if settings.test_percent and test.any():
        raise InputError(
            f"--test-percent {settings.test_percent:g}: the data set already has a test part of {plural(int(test.sum()), 'video')} "
            f"(fold {settings.fold}). Leave the option out, or use --hold-out for a validation part."
        )
    # Parts are set aside before labels are drawn, so that --percent counts the videos that remain for training.
    spans = groups_span_classes(manifest.header.dataset)
    _set_aside(pool, settings.test_percent, settings.seed, "test", spans, train, test)
    _set_aside(pool, settings.hold_out_percent, settings.seed, "validation", spans, train, validation)
    places = np.flatnonzero(train)
    if pool.without_label.all():
        raise InputError(
            f"{manifest.root} holds {plural(len(pool.key), 'video')} without a label and no other: a split needs labelled ones. Add them: "
            f"`tgprep extract VIDEOS {manifest.root} --add`, VIDEOS the folder that holds the class folders."
        )
    if not len(places):
        raise InputError(f"{manifest.root}: no train videos in fold {settings.fold}; `tgprep info` lists the subsets.")
    # The draw sees only train videos; its indices are mapped back to the pool.
    labelled = np.zeros(len(pool.key), bool)
    labelled[places[_draw_labelled(pool, places, settings, spans)]] = True
    if not labelled.any():
        assert settings.percent is not None
        raise InputError(
            f"--percent {settings.percent:g} of {plural(len(places), 'train video')} {'in whole groups ' * settings.by_group}is less than one. "
            f"{f'Did you mean --percent {100 * settings.percent:g}? ' if settings.percent < 1 else ''}Give a larger --percent, or --strategy stratified, which labels at least one of each class{', or --redrawn' * settings.by_group}."
        )
    without_label = pool.without_label & np.array([key not in dropped for key in pool.key])
    unlabelled = without_label | (train if settings.unlabelled == "all" else train & ~labelled)
    provenance = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in dataclasses.asdict(settings).items()
        if value is not None and name != "name"
    }
    parts = labelled, unlabelled, validation, test
    if dropped:
        provenance["dropped_duplicates"] = str(int((pool.without_label & ~without_label).sum()))
    return assemble(manifest, pool, settings.split_name, parts, {"made": "drawn", **provenance})


def assemble(
    manifest: Manifest,
    pool: Pool,
    name: str,
    parts: Sequence[Flags],
    provenance: dict[str, str],
    label: npt.NDArray[np.int32] | None = None,
) -> LabelSplit:
    """Make a LabelSplit of the pool's videos that are in any of the four parts (order of PARTS).

    Videos without a label that come from the source of a video in validation or test are left out: they may show its frames or scene.
    """
    if pool.without_label.any():
        labelled, unlabelled, validation, test = parts
        without = np.flatnonzero(pool.without_label & ~labelled)
        unlabelled = unlabelled.copy()
        unlabelled[without] &= ~np.array(
            of_their_sources(manifest, pool.rows[validation | test], pool.rows[without]), bool
        )
        parts = labelled, unlabelled, validation, test
    members = np.flatnonzero(np.logical_or.reduce(list(parts)))
    labels = pool.label if label is None else label
    facts = {"dataset": manifest.header.dataset, "dataset_digest": manifest.digest, "order": "sha256-1"}
    return LabelSplit(
        name,
        tuple(pool.key[place] for place in members),
        labels[members],
        **{part: flags[members] for part, flags in zip(PARTS, parts, strict=True)},
        provenance=dict(sorted({**facts, **provenance}.items())),
    )


def split_table(split: LabelSplit) -> pa.Table:
    """Convert a split to Arrow; its provenance is in the schema's metadata."""
    columns = [pa.array(split.key, pa.string()), pa.array(split.label, pa.int32())]
    columns += [pa.array(split.part(part), pa.bool_()) for part in PARTS]
    text = json.dumps(split.provenance, sort_keys=True, ensure_ascii=False)
    return pa.table(columns, schema=SPLIT_SCHEMA.with_metadata({_PROVENANCE: text.encode()}))


def split_digest(split: LabelSplit) -> str:
    """Compute the identity of a split's content: sha256 of its table, without name and provenance."""
    return hashlib.sha256(table_bytes(split_table(split).replace_schema_metadata(None))).hexdigest()


def split_place(root: str | Path, name: str) -> str:
    """The location of a split's file."""
    if not is_split_name(name):
        raise InputError(f"Split name {name!r}: {NAME_RULE}.")
    return join(root, SPLITS_FOLDER, name + _SUFFIX)


def write_split(root: str | Path, split: LabelSplit, *, overwrite: bool = False) -> bool:
    """Write splits/NAME.parquet; False if the same split exists already, which then becomes the newest.

    InputError if another split has that name, unless `overwrite`.
    """
    place = split_place(root, split.name)
    table = split_table(split)
    with contextlib.suppress(FileNotFoundError, ValueError):
        content = read_bytes(place)
        before = parquet_table(content, SPLIT_SCHEMA)
        same = before.equals(table, check_metadata=True)
        if same and seal_holds(content):
            _make_newest(place, root, split.name)
            return False
        if not same and not overwrite:
            raise InputError(
                f"{place} holds another split of that name ({_difference(before, table)}). "
                "Give another --name, or replace it with --overwrite."
            )
    if not is_url(root):
        path_inside(Path(root), f"{SPLITS_FOLDER}/{split.name}{_SUFFIX}", "--name").parent.mkdir(exist_ok=True)
    with atomic_write(place) as file:
        file.write(sealed_table_bytes(table))
    return True


def _make_newest(place: str, root: str | Path, name: str) -> None:
    """Let a split that was asked for again be the one that a command without --split takes."""
    if list_splits(root)[:1] == (name,):
        return
    if is_url(place):
        content = read_bytes(place)
        with atomic_write(place) as file:
            file.write(content)
    else:
        with contextlib.suppress(PermissionError):  # a data set that is read only: the user must name the split
            os.utime(place)


def list_splits(root: str | Path) -> tuple[str, ...]:
    """List the names of the splits, newest first (by time of last change, then by name)."""
    return list_tables(join(root, SPLITS_FOLDER))


def list_tables(folder: str) -> tuple[str, ...]:
    """List the names of the tables in a folder of splits or targets, newest first."""
    found: list[tuple[float, str]] = []
    if is_url(folder):
        with contextlib.suppress(FileNotFoundError):
            for entry in call(folder, lambda files, path: files.ls(path, detail=True)):
                changed = entry.get("mtime") or entry.get("LastModified") or entry.get("created") or 0.0
                seconds = changed.timestamp() if hasattr(changed, "timestamp") else float(changed)
                found.append((seconds, str(entry["name"]).rsplit("/", 1)[-1]))
    elif Path(folder).is_dir():
        found = [(file.stat().st_mtime, file.name) for file in Path(folder).iterdir() if file.is_file()]
    names = [(-seconds, name.removesuffix(_SUFFIX)) for seconds, name in found if name.endswith(_SUFFIX)]
    return tuple(name for _, name in sorted(names) if is_split_name(name))


def keyed_table(content: bytes, schema: pa.Schema) -> pa.Table:
    """Read a sealed table with a row for each `key`. ValueError as `parquet_table`, and if the seal is broken or a key is none."""
    if seal_holds(content) is False:
        raise ValueError("its sha256 does not match the one stored in it")
    table = parquet_table(content, schema)
    if not are_keys(table["key"]):
        raise ValueError("its keys are not all `Class/stem` of [A-Za-z0-9_-]")
    return table


def read_split(root: str | Path, name: str | None = None) -> LabelSplit:
    """Read a split, by default the newest; InputError if there is none or the file is not a split."""
    if name is None:
        names = list_splits(root)
        if not names:
            raise InputError(f"{root} has no split yet. Make one with `tgprep split {root} --percent 20`.")
        name = names[0]
    place = split_place(root, name)
    try:
        table = keyed_table(read_bytes(place), SPLIT_SCHEMA)
        columns = {part: table.column(part).to_numpy() for part in ("label", *PARTS)}
        return LabelSplit(name, tuple(table.column("key").to_pylist()), **columns, provenance=_provenance(table))
    except FileNotFoundError:
        names = list_splits(root)
        existing = f"there are: {', '.join(names[:10])}" if names else "there is none"
        raise InputError(f"No split {name} in {root}; {existing}. `tgprep split` makes one.") from None
    except ValueError as error:
        raise InputError(f"{place} is damaged ({str(error)[:300]}). Make the split again with --overwrite.") from None


def _provenance(table: pa.Table) -> dict[str, str]:
    """What a split was made from; ValueError if it is no flat object of texts."""
    provenance = parse_json((table.schema.metadata or {}).get(_PROVENANCE, b"{}"))
    if not isinstance(provenance, dict) or not all(isinstance(value, str) for value in provenance.values()):
        raise ValueError("its provenance is no object of texts")
    return provenance


def _set_aside(pool: Pool, percent: float, seed: int, purpose: str, spans: bool, train: Flags, part: Flags) -> None:
    """Move about `percent` of the train videos from `train` to `part`, in complete units and from each class if possible."""
    if not percent:
        return
    places = np.flatnonzero(train)
    units = [pool.unit[place] for place in places]
    classes = [0] * len(places) if spans else pool.label[places].tolist()
    moved = places[draw.draw_groups_stratified(units, classes, percent, seed, purpose, leave_one=True)]
    if not len(moved):
        raise InputError(
            f"No {purpose} part of {percent:g} % can be set aside: {plural(len(set(units)), 'group')} in {plural(len(places), 'train video')}, "
            "groups are not divided and at least one of each class must remain. Add videos or groups."
        )
    train[moved] = False
    part[moved] = True


def _draw_labelled(pool: Pool, places: npt.NDArray[np.int64], settings: SplitSettings, spans: bool) -> list[int]:
    names = [pool.key[place] for place in places]
    classes = pool.label[places].tolist()
    amount = settings.percent if settings.percent is not None else settings.per_class
    assert amount is not None
    # Of draws with one purpose the larger contain the smaller; a purpose of its own makes a draw independent.
    how = settings.seed, "label" if settings.nested else f"label {amount:g}"
    if settings.by_group:
        units = [pool.unit[place] for place in places]
        if settings.strategy == "random":
            return draw.draw_groups(units, amount, *how, nested=settings.nested)
        if spans:
            raise InputError(
                "--by-group with --strategy stratified: groups of this data set contain several classes, so classes cannot get shares of complete groups. Use --strategy random."
            )
        return draw.draw_groups_stratified(units, classes, amount, *how)
    if settings.strategy == "random":
        return draw.draw_random(names, amount, *how)
    if settings.strategy == "stratified":
        return draw.draw_stratified(names, classes, amount, *how)
    return draw.draw_per_class(names, classes, int(amount), *how)


def _difference(before: pa.Table, after: pa.Table) -> str:
    old, new = _provenance(before), _provenance(after)
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    differences = [f"{name} {old.get(name, '-')[:20]} there, {new.get(name, '-')[:20]} now" for name in names]
    return "; ".join(differences[:4]) or "other videos or labels"
