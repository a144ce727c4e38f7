"""Drop videos from a data set, and restore them: rows move from videos.parquet to originals.parquet and back, shards stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.console import plural
from manifests.records import SKIPPED, InputError
from manifests.table import Originals, VideoTable
from tgprep.edit.change import SHOWN, Changed, State, find_keys, held, refuse_unknown, with_columns


def drop(root: str, keys: Sequence[str], *, dry_run: bool = False) -> Changed:
    """Take the videos with these keys out of the tables of the data set at `root` (local path or URL); failed ones, too.

    Their bytes stay in the shards. No reader of this program gives them any more, and `tgprep extract --add` does not extract
    them again. InputError, and nothing changes, if a key names no video, or none would be left.
    """
    with held(root, dry_run) as state:
        videos, originals = state.manifest.videos, state.originals
        named = np.flatnonzero(pc.not_equal(videos.arrow["status"], SKIPPED).to_numpy())
        rows, missing = find_keys(videos, named, keys)
        dropped_before, unknown = find_keys(originals.videos, np.flatnonzero(originals.dropped), missing)
        example = str(videos.arrow["key"][int(named[0])]) if len(named) else "Class/video"
        refuse_unknown("--keys", root, unknown, len(set(keys)), example)
        if rows and len(rows) == len(named):
            raise InputError(
                f"--keys names all {plural(len(rows), 'video')} of {root}: none would be left. Remove the folder instead."
            )
        kept = np.setdiff1d(np.arange(len(videos)), rows)
        return state.write("drop", len(rows), len(dropped_before), videos.take(kept), _with_dropped(state, rows))


def _with_dropped(state: State, rows: Sequence[int]) -> Originals:
    """The originals with these rows of videos.parquet as dropped; one with an original keeps that, and its class for a restore."""
    videos, originals = state.manifest.videos, state.originals
    place_of = {sample: place for place, sample in enumerate(originals.videos.samples()) if sample[0]}
    samples, class_names = videos.samples(), videos.column("class_name")
    dropped, class_now = originals.dropped.copy(), list(originals.class_now)
    fresh = []
    for row in rows:
        place = place_of.get(samples[row], -1)
        if place < 0:
            fresh.append(row)
        else:
            dropped[place], class_now[place] = True, class_names[row]
    changed = replace(originals, dropped=dropped, class_now=tuple(class_now))
    new = Originals(videos.take(fresh), np.ones(len(fresh), bool), tuple(class_names[row] for row in fresh))
    return Originals.from_arrow(pa.concat_tables([changed.to_arrow(), new.to_arrow()]))


def restore(root: str, keys: Sequence[str] = (), *, dry_run: bool = False) -> Changed:
    """Put dropped videos back, with the class that they had when they were dropped; all of them, or those with these keys.

    The tables are then what they were, and splits made for that state count again. InputError, and nothing changes, if a key names no
    dropped video, or a video has that key or path by now.
    """
    with held(root, dry_run) as state:
        videos, originals = state.manifest.videos, state.originals
        places = np.flatnonzero(originals.dropped)
        there: list[int] = []
        if keys:
            _, missing = find_keys(originals.videos, places, keys)
            wanted = {key.lower() for key in keys}
            names = originals.videos.column("key")
            places = np.array([place for place in places.tolist() if names[place].lower() in wanted], np.int64)
            there, unknown = find_keys(videos, np.arange(len(videos)), missing)
            example = names[0] if names else "Class/video"
            refuse_unknown("--keys", root, unknown, len(set(keys)), example)
        back = originals.videos.take(places)
        _refuse_taken(state, back)
        label_of = {name: label for label, name in enumerate(state.manifest.header.classes)} | {"": -1}
        class_names = [originals.class_now[place] for place in places.tolist()]
        labels = [label_of[name] for name in class_names]
        as_they_were = [
            (name, label) == then
            for name, label, then in zip(
                class_names, labels, zip(back.column("class_name"), back.column("label"), strict=True), strict=True
            )
        ]
        back = with_columns(back, class_name=pa.array(class_names, pa.string()), label=pa.array(labels, pa.int32()))
        table = pa.concat_tables([videos.arrow, back.arrow])
        order = [("key", "ascending"), ("path", "ascending")]
        restored = VideoTable(table.take(pc.sort_indices(table, sort_keys=order)))
        # What is again as its shard has it needs no original; a video that failed has no sample to describe.
        has_sample = [bool(shard) for shard in back.column("shard")]
        gone = [
            place
            for place, same, held_ in zip(places.tolist(), as_they_were, has_sample, strict=True)
            if same or not held_
        ]
        dropped = originals.dropped.copy()
        dropped[places] = False
        kept = np.setdiff1d(np.arange(len(originals)), gone)
        left = Originals(originals.videos.take(kept), dropped[kept], tuple(originals.class_now[row] for row in kept))
        return state.write("restore", len(places), len(there), restored, left)


def _refuse_taken(state: State, back: VideoTable) -> None:
    """InputError if a video to restore has the key or the place in a file of a video that the data set holds, or of another one to restore."""
    videos = state.manifest.videos
    status = videos.column("status")
    seen: set[object] = {key.lower() for key in videos.column("key") if key}
    seen |= {place for place, state_ in zip(videos.places(), status, strict=True) if state_ != SKIPPED}
    taken = []
    for key, place in zip(back.column("key"), back.places(), strict=True):
        if key.lower() in seen or place in seen:
            taken.append(key)
        seen |= {key.lower(), place}
    if taken:
        raise InputError(
            f"{state.manifest.root}: {len(taken)} of the videos to restore have the key or path of another one: "
            f"{', '.join(taken[:SHOWN])}{', …' * (len(taken) > SHOWN)}. Nothing was changed. Drop those first, or restore others by --keys."
        )
