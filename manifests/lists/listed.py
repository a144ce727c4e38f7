"""What official lists say of each video, gathered line by line; where they contradict themselves is counted and noted."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from manifests.console import counted
from manifests.datasets import KINETICS_NAME, nfc
from manifests.lists.labels import UNUSED

# Of two subsets of a video the first of these counts, so that no held-out video is trained on.
_PRECEDENCE = ("val", "test", UNUSED, "train", "")


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video in official lists."""

    class_name: str
    stem: str  # file name without extension
    subsets: tuple[str, ...]  # one per fold


@dataclass(frozen=True, slots=True)
class OfficialLists:
    """The content of a data set's official lists."""

    source: str
    classes: tuple[str, ...]  # line number = label
    videos: tuple[ListedVideo, ...]
    index: dict[str, int]
    """Every possible name of a video file -> its index in `videos`: `class/stem` in lower case; for Kinetics the stems
    `<id>_<start>_<end>`, `<id>` of ids with one clip, and `class/<id>` of ids with one clip in this class, with case. In
    composed Unicode."""
    num_folds: int
    files: tuple[Path, ...] = ()  # that were read
    notes: tuple[str, ...] = ()  # contradictions, and what was done about them

    def find(self, class_name: str, stem: str) -> int | None:
        """Find the index of a video file in `videos`; None if no list names it."""
        for name in (f"{class_name}/{stem}".lower(), stem):
            if (place := self.index.get(nfc(name))) is not None:
                return place
        if stem.startswith(
            "_"
        ):  # a key has one underscore in place of several at its beginning; ids have 11 characters
            for name in ("_" * number + stem for number in range(1, 11)):
                if KINETICS_NAME.match(name) and (place := self.index.get(nfc(name))) is not None:
                    return place
        if match := KINETICS_NAME.match(stem):
            place = self.index.get(match["id"], self.index.get(nfc(f"{class_name}/{match['id']}")))
            listed = KINETICS_NAME.match(self.videos[place].stem) if place is not None else None
            # Another clip of the same YouTube video is another video; programs round times by up to a second.
            is_other = listed and match["start"] and abs(int(listed["start"] or 0) - int(match["start"])) > 1
            return None if is_other else place
        return None


@dataclass(slots=True)
class Tally:
    """Counts of what is odd in lists, with the first examples of each kind."""

    counts: dict[str, int] = field(default_factory=dict)  # by message
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, message: str, example: str) -> None:
        """Count one. message: what is odd and what is done about it, with the number as `counted` writes it."""
        self.counts[message] = self.counts.get(message, 0) + 1
        if len(some := self.examples.setdefault(message, [])) < 3:
            some.append(example)

    def notes(self) -> tuple[str, ...]:
        """One line for each message."""
        return tuple(
            f"{counted(message, count)}: {', '.join(self.examples[message])}" + ", ..." * (count > 3)
            for message, count in self.counts.items()
        )


@dataclass(slots=True)
class SubsetsOfVideos:
    """The subset of each video in every fold."""

    num_folds: int
    tally: Tally
    found: dict[tuple[str, str], tuple[str | None, ...]] = field(default_factory=dict)
    """By a name of two parts; None: no list of the fold names the video yet."""

    def add(self, name: tuple[str, str], fold: int, subset: str, where: str) -> None:
        """Add an entry of a list. fold: from 0. where: the entry, for notes."""
        of_video = self.found.get(name, (None,) * self.num_folds)
        before = of_video[fold]
        after = subset if before is None else min(before, subset, key=_PRECEDENCE.index)
        self.found[name] = _changed(of_video, fold, after)
        if before == subset:
            self.tally.add("{entry of the lists repeats|entries of the lists repeat} a video", where)
        elif before is not None:
            self.tally.add(
                "{video is|videos are} in two subsets of a list; of val, test, unused and train the first counts",
                f"{where} ({before or 'no subset'} and {subset or 'no subset'})",
            )

    def of(self, name: tuple[str, str]) -> tuple[str, ...]:
        """The subsets of a video; "" where no list of the fold names it."""
        return _listed(self.found[name])


@functools.cache  # a million videos share a few tuples
def _changed(subsets: tuple[str | None, ...], fold: int, subset: str) -> tuple[str | None, ...]:
    return (*subsets[:fold], subset, *subsets[fold + 1 :])


@functools.cache
def _listed(subsets: tuple[str | None, ...]) -> tuple[str, ...]:
    return tuple(subset or "" for subset in subsets)
