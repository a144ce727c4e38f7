"""The plan of an extraction, kept in the work folder so that a resumed run does the same."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from manifests.files import Location, atomic_write, below, read_bytes
from manifests.manifest_io import json_bytes, parquet_table
from manifests.records import InputError, ManifestHeader, SourceVideo
from tgprep.config import EARLIER, ExtractSettings
from tgprep.extract.workers.shards import ShardPlan
from tgprep.scan.scan import Scan

_VIDEOS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("class_name", pa.string()),
        ("label", pa.int32()),
        ("group", pa.string()),
        ("subsets", pa.list_(pa.string())),
        ("num_source_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The videos to extract, and the facts of the header."""

    dataset: str
    classes: tuple[str, ...]
    num_folds: int
    videos: tuple[SourceVideo, ...]
    skipped: tuple[tuple[str, str], ...]  # (path, reason)
    settings: ExtractSettings
    versions: dict[str, str]  # of what decodes and encodes, when the work began
    update: str = ""  # how a finished data set changes: "--add", "--retry-failed" or both; "" for a new one
    base: str = ""  # digest of the data set that changes
    first_shard: int = 0  # number of the first new shard

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """The shards to write."""
        return plan_shards(self.videos, self.settings.videos_per_shard, self.first_shard)

    @property
    def header(self) -> ManifestHeader:
        """The header of the data set, without counts."""
        return ManifestHeader(
            dataset=self.dataset,
            classes=self.classes,
            gradient=self.settings.coding,
            settings=self.settings.model_dump(),
            versions=self.versions,
            num_folds=self.num_folds,
        )


_PLAN = TypeAdapter(Plan)


def new_plan(scan: Scan, settings: ExtractSettings, versions: dict[str, str]) -> Plan:
    """The plan of a new data set with every video of the scan."""
    return Plan(
        dataset=scan.dataset,
        classes=scan.classes,
        num_folds=scan.num_folds,
        videos=scan.videos,
        skipped=tuple((item.path, item.reason) for item in scan.skipped),
        settings=settings,
        versions=versions,
    )


def plan_shards(videos: Sequence[SourceVideo], videos_per_shard: int, first_shard: int = 0) -> tuple[ShardPlan, ...]:
    """Divide the videos into shards: an even mix of all classes, which depends on the keys alone.

    videos_per_shard 0: 8 to 64, so that a small data set still has shards for several workers.
    """
    size = shard_size(len(videos), videos_per_shard)
    mixed = sorted(videos, key=lambda video: mixed_place(video.key))
    return tuple(
        ShardPlan(f"shard-{number:06d}.tar", tuple(mixed[start : start + size]))
        for number, start in enumerate(range(0, len(mixed), size), first_shard)
    )


def shard_size(num_videos: int, videos_per_shard: int) -> int:
    """Videos in one shard of a data set of `num_videos`."""
    return videos_per_shard or min(64, max(8, math.ceil(num_videos / 32)))


def mixed_place(key: str) -> tuple[bytes, str]:
    """A sort key that mixes classes evenly, the same on every machine."""
    return blake2b(key.encode(), digest_size=8).digest(), key


def save_plan(work: Location, plan: Plan) -> None:
    """Write the plan into the work folder; it is valid once plan.json exists."""
    records = [{**dataclasses.asdict(video), "subsets": list(video.subsets)} for video in plan.videos]
    with atomic_write(below(work, "plan.parquet")) as file:
        pq.write_table(pa.Table.from_pylist(records, schema=_VIDEOS_SCHEMA), file)
    facts = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "videos"}
    with atomic_write(below(work, "plan.json")) as file:
        file.write(json_bytes({**facts, "settings": plan.settings.model_dump()}))


def load_plan(work: Location) -> Plan | None:
    """The plan of the interrupted run, if there is one."""
    try:
        facts = json.loads(read_bytes(below(work, "plan.json")))
    except FileNotFoundError:
        return None
    videos = parquet_table(read_bytes(below(work, "plan.parquet"))).to_pylist()
    plan: Plan = _PLAN.validate_python({**facts, "settings": EARLIER | facts["settings"], "videos": videos})
    return plan


def refuse_difference(out: Location, state: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """InputError that names every setting of the data set at `out` that differs from the request."""
    # A setting that is younger than the data set has today's default, unless EARLIER names another value.
    defaults = {name: field.default for name, field in ExtractSettings.model_fields.items()}
    stored = {**defaults, **EARLIER, **before}
    differences = [
        f"--{name.replace('_', '-')} is {stored.get(name)} in it, {value} requested"
        for name, value in now.items()
        if stored.get(name) != value
    ]
    if differences:
        raise InputError(
            f"{out} holds {state} data set with other settings: {'; '.join(differences)}. "
            f"Use the same settings to continue, or name another folder."
        )


def changes_since(plan: Plan, scan: Scan, versions: dict[str, str]) -> list[str]:
    """Notes for the user on what has changed since the interrupted run made its plan."""
    notes = []
    before = {video.path: video.num_source_bytes for video in plan.videos}
    now = {video.path: video.num_source_bytes for video in scan.videos}
    num_new, num_gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
    num_other = sum(now[path] != before[path] for path in now.keys() & before.keys())
    if not plan.update and (num_new or num_gone or num_other):
        notes.append(
            f"VIDEOS has changed since this extraction began ({num_new} new, {num_gone} gone, {num_other} of another size): "
            f"it continues with the list of the beginning"
        )
    if other := [
        f"{name} {plan.versions.get(name)} then, {version} now"
        for name, version in versions.items()
        if plan.versions.get(name) != version
    ]:
        notes.append(f"other versions than when this extraction began ({'; '.join(other)}): its bytes may differ")
    return notes
