"""The plan of an extraction or of an update, kept in the work folder so that a resumed run does the same."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from manifests.bounds import check_sources
from manifests.datasets import nfc
from manifests.files import Location, atomic_write, below, read_bytes, read_json
from manifests.manifest_io import json_bytes, read_originals
from manifests.parquet import parquet_table, table_bytes
from manifests.records import FAILED, NO_LABEL, SKIPPED, InputError, ManifestHeader, Place, SourceVideo
from manifests.table import VIDEO_SCHEMA, VIDEO_SCHEMAS, Manifest
from tgprep.config import EARLIER, ExtractSettings
from tgprep.extract.workers.shards import ShardPlan
from tgprep.scan.keys import stem_of, text_of, video_key
from tgprep.scan.pool import KEY_FOLDER, outside_name
from tgprep.scan.scan import Scan

_SOURCE_SCHEMA, _SEGMENT_SCHEMA = (
    pa.schema([schema.field(field.name) for field in dataclasses.fields(SourceVideo) if field.name in schema.names])
    for schema in (VIDEO_SCHEMA, VIDEO_SCHEMAS[-1])
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
        settings = self.settings
        facts = (settings.coding, settings.model_dump(), self.versions, self.num_folds)
        return ManifestHeader(self.dataset, self.classes, *facts)

    def save(self, work: Location) -> None:
        """Write the plan into the work folder; it is valid once plan.json exists."""
        schema = _SEGMENT_SCHEMA if any(video.start_seconds >= 0 for video in self.videos) else _SOURCE_SCHEMA
        columns = {name: [getattr(video, name) for video in self.videos] for name in schema.names}
        table = table_bytes(pa.table(columns, schema=schema))
        with atomic_write(below(work, "plan.parquet")) as file:
            file.write(table)
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "videos"}
        facts |= {"settings": self.settings.model_dump(), "videos_sha256": hashlib.sha256(table).hexdigest()}
        with atomic_write(below(work, "plan.json")) as file:
            file.write(json_bytes({**facts, "sha256": hashlib.sha256(json_bytes(facts)).hexdigest()}))


_MAX_SHARDS = 10**6
_PLAN = TypeAdapter(Plan)


class DamagedPlanError(InputError):
    """A plan whose content is not what was written."""


def plan_shards(videos: Sequence[SourceVideo], videos_per_shard: int, first_shard: int = 0) -> tuple[ShardPlan, ...]:
    """Divide the videos into shards: an even mix of all classes, which depends on the keys (of segments on the paths) alone.

    The segments of one file lie in one shard in the order of their starts, or in as few as there can be if they are more than a
    shard holds: a worker then decodes the file once. videos_per_shard 0: 8 to 64, so that a small data set still has shards for
    several workers.
    """
    size = shard_size(len(videos), videos_per_shard)
    if any(video.is_segment for video in videos):
        shards = _files_together(videos, size)
    else:  # as a rule, and three times as fast: every video is a file of its own
        order = sorted(videos, key=lambda video: mixed_place(video.key))
        shards = [order[start : start + size] for start in range(0, len(order), size)]
    return tuple(ShardPlan(f"shard-{number:06d}.tar", tuple(shard)) for number, shard in enumerate(shards, first_shard))


def _files_together(videos: Sequence[SourceVideo], size: int) -> list[list[SourceVideo]]:
    shards: list[list[SourceVideo]] = [[]]
    for _, group in itertools.groupby(sorted(videos, key=_planned_place), key=lambda video: _planned_place(video)[:2]):
        together = list(group)
        for start in range(0, len(together), size):
            piece = together[start : start + size]
            if len(shards[-1]) + len(piece) > size:
                shards.append([])
            shards[-1] += piece
    return shards


def _planned_place(video: SourceVideo) -> tuple[bytes, str, float, float, str]:
    name = video.path if video.is_segment else video.key
    return *mixed_place(name), video.start_seconds, video.end_seconds, video.key


def shard_size(num_videos: int, videos_per_shard: int) -> int:
    """Videos in one shard of a data set of `num_videos`."""
    return videos_per_shard or min(64, max(8, math.ceil(num_videos / 32)))


def mixed_place(key: str) -> tuple[bytes, str]:
    """A sort key that mixes classes evenly, the same on every machine."""
    return blake2b(key.encode(), digest_size=8).digest(), key


def load_plan(work: Location) -> Plan | None:
    """The plan of the interrupted run, if there is one. DamagedPlanError if it cannot be read."""
    try:
        facts = read_json(below(work, "plan.json"))
        table = read_bytes(below(work, "plan.parquet"))
        seal, digest = facts.pop("sha256", None), facts.pop("videos_sha256", None)  # older versions wrote neither
        if digest and digest != hashlib.sha256(table).hexdigest():
            raise ValueError("plan.parquet has another sha256")
        if seal and seal != hashlib.sha256(json_bytes({**facts, "videos_sha256": digest})).hexdigest():
            raise ValueError("plan.json has another sha256")
        videos = parquet_table(table, _SOURCE_SCHEMA, _SEGMENT_SCHEMA)
        facts |= {"settings": EARLIER | facts["settings"], "videos": ()}
        plan: Plan = _PLAN.validate_python(facts)
        check_sources(videos, plan.classes, plan.num_folds)
        columns = {**videos.to_pydict(), "subsets": map(tuple, videos["subsets"].to_pylist())}
        plan = replace(plan, videos=tuple(map(SourceVideo, *columns.values())))
        if not 0 <= plan.first_shard < _MAX_SHARDS:
            raise ValueError(f"first_shard is {plan.first_shard!r:.100}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0][:200]
        raise DamagedPlanError(
            f"{below(work, 'plan.json')}: the plan of the unfinished extraction is damaged ({reason}). Run the same "
            "`tgprep extract` command again: it makes the plan again, and keeps the shards that fit it."
        ) from None
    except FileNotFoundError as error:
        if str(error.filename or "").endswith("plan.parquet"):
            raise DamagedPlanError(f"{below(work, 'plan.parquet')} is missing.") from None
        return None
    return plan


def plan_digest(work: Location) -> str:
    """The sha256 of the plan, which entries of the journal name."""
    return hashlib.sha256(read_bytes(below(work, "plan.json"))).hexdigest()


def refuse_difference(
    out: Location, state: str, dataset: str, settings: dict[str, Any], scan: Scan, now: ExtractSettings
) -> None:
    """InputError that names every setting of the data set at `out` that differs from the request and its scan."""
    # A setting that is younger than the data set has today's default, unless EARLIER names another value.
    defaults = {name: field.default for name, field in ExtractSettings.model_fields.items()}
    stored = {**defaults, **EARLIER, **settings, "dataset": dataset}
    differences = [
        f"--{name.replace('_', '-')} is {stored.get(name)} in it, {value} requested"
        for name, value in {**now.model_dump(), "dataset": scan.dataset}.items()
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
    if not plan.update and (changed := _changed_files(plan.videos, scan.videos)):
        notes.append(
            f"VIDEOS has changed since this extraction began ({changed}): it continues with the list of the beginning"
        )
    if other := [
        f"{name} {plan.versions.get(name)} then, {version} now"
        for name, version in versions.items()
        if plan.versions.get(name) != version
    ]:
        notes.append(f"other versions than when this extraction began ({'; '.join(other)}): its bytes may differ")
    return notes


def _changed_files(planned: Sequence[SourceVideo], found: Sequence[SourceVideo]) -> str:
    """How many videos are new, gone or of another size; "" if none is."""
    facts = [[(video.place, video.num_source_bytes) for video in videos] for videos in (planned, found)]
    if facts[0] == facts[1]:  # as a rule, and much faster to see than what differs
        return ""
    before, now = map(dict, facts)
    num_new, num_gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
    num_other = sum(now[place] != before[place] for place in now.keys() & before.keys())
    if not (num_new or num_gone or num_other):
        return ""
    return f"{num_new} new, {num_gone} gone, {num_other} of another size"


@dataclass(frozen=True, slots=True)
class Update:
    """How a finished data set changes."""

    add: bool = False  # extract videos that it does not have
    retry_failed: bool = False  # extract its failed videos again

    def __bool__(self) -> bool:
        return self.add or self.retry_failed

    def __str__(self) -> str:
        return " ".join(["--add"] * self.add + ["--retry-failed"] * self.retry_failed)


def plan_update(
    base: Manifest,
    scan: Scan,
    settings: ExtractSettings,
    versions: dict[str, str],
    update: Update,
    pools: Collection[str],
) -> Plan:
    """The plan of an update. Keys, labels and classes of the data set stay; new classes get the labels after them.

    pools: names of the given folders of unlabelled videos.
    """
    rows = [row for row in base.videos if row.status != SKIPPED]
    dropped = read_originals(base).dropped_videos()  # they stay dropped, and their keys in the shards taken
    known = {row.place for row in rows}.union(dropped.places())
    classes, skipped = base.header.classes, skipped_of(base)
    videos: list[SourceVideo] = []
    if update.retry_failed:
        sizes = {video.place: video.num_source_bytes for video in scan.videos}
        failed = [row for row in rows if row.status == FAILED]
        videos += [replace(row.source, num_source_bytes=sizes.get(row.place, row.num_source_bytes)) for row in failed]
    if update.add:
        if scan.num_folds != base.header.num_folds and has_labels(base):
            raise InputError(
                f"{base.root} has {base.header.num_folds} official folds, VIDEOS and its lists now have {scan.num_folds}. "
                f"Give the same --annotations and the same kind of folders, or extract into a new folder."
            )
        present = {video.class_name for video in scan.videos if video.class_name}
        same = {nfc(name): name for name in classes}  # the data set's spelling of a class
        classes += tuple(name for name in scan.classes if name in present and nfc(name) not in same)
        used_keys = {row.key.lower() for row in rows} | {key.lower() for key in dropped.column("key")}
        labels = {name: label for label, name in enumerate(classes)} | {"": NO_LABEL}
        _refuse_other_pools(base, scan)
        for video in with_columns_of(base, new_videos(scan, known)):
            # A key of the data set may belong to a file that is no longer in VIDEOS: a hash of the path makes another one.
            key = video.key
            for digits in (8, 16, 64):
                if key.lower() not in used_keys:
                    break
                key = video_key(video.class_name or KEY_FOLDER, stem_of(video), hash_of=text_of(video), digits=digits)
            used_keys.add(key.lower())
            name = same.get(nfc(video.class_name), video.class_name)
            videos.append(replace(video, key=key, class_name=name, label=labels[name]))
        # What was skipped in folders of unlabelled videos that are not given now stays skipped.
        kept = {item for item in skipped if (name := outside_name(item[0])) and name not in pools}
        paths = {row.path for row in rows}
        skipped = kept | {(item.path, item.reason) for item in scan.skipped if item.path not in paths}
    last = max((int(shard.name.split("-")[1].split(".")[0]) for shard in base.shards), default=-1)
    first = scan if update.add and not has_labels(base) else base.header  # the first labelled videos decide
    facts = (first.dataset, classes, first.num_folds, tuple(videos), tuple(sorted(skipped)))
    return Plan(*facts, settings, versions, update=str(update), base=base.digest, first_shard=last + 1)


def has_labels(base: Manifest) -> bool:
    """Whether a data set holds a video with a label."""
    return any(label != NO_LABEL for label in base.videos.column("label"))


def _refuse_other_pools(base: Manifest, scan: Scan) -> None:
    """InputError if files of a folder of unlabelled videos have another size than those of the data set: it is another folder."""
    columns = (base.videos.column(name) for name in ("path", "num_source_bytes", "status"))
    before = {
        path: size for path, size, status in zip(*columns, strict=True) if status != SKIPPED and outside_name(path)
    }
    for video in scan.videos:
        if (size := before.get(video.path, video.num_source_bytes)) != video.num_source_bytes:
            name = outside_name(video.path)
            raise InputError(
                f"--unlabelled {name}: {video.path} has {video.num_source_bytes} bytes, in {base.root} it had {size}. If this is another "
                f"folder of the name {name}, give it by a link with another name; the data set keeps the videos that it has."
            )


def new_videos(scan: Scan, known: Collection[Place]) -> list[SourceVideo]:
    """The videos of a scan that are not among these; one of whose path only the form of Unicode has changed is."""

    def same(path: str, start: float, end: float) -> Place:
        return path, max(start, 0.0), end  # the whole file has -1 in data sets without segments

    have = {same(*place) for place in known}
    now = [(same(*video.place), video) for video in scan.videos]
    lost = {(nfc(path), *times) for path, *times in have - {place for place, _ in now}}
    return [video for place, video in now if place not in have and (nfc(place[0]), *place[1:]) not in lost]


def with_columns_of(base: Manifest, videos: list[SourceVideo]) -> list[SourceVideo]:
    """The videos as rows of a data set with or without segments. InputError if it has none and they are segments."""
    if base.videos.has_segments or not len(base.videos):
        return [replace(video, start_seconds=max(video.start_seconds, 0.0)) for video in videos]
    if segment := next((video for video in videos if video.is_segment), None):
        raise InputError(
            f"{base.root} was made without segments, and {segment.path} is to be cut: its samples lack the fields for the times. "
            "Extract into a new folder."
        )
    return [replace(video, start_seconds=-1.0) for video in videos]


def skipped_of(base: Manifest) -> set[tuple[str, str]]:
    """(path, reason) of the inputs that the data set skipped."""
    return {(row.path, row.error) for row in base.videos if row.status == SKIPPED}
