"""Find videos of a data set that are the same file: under another name or class, or in both train and test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from manifests.console import plural
from manifests.records import WRITTEN
from manifests.table import VideoTable

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Copies:
    """Equal files among the written videos, by their digests."""

    num_copies: int  # of each set of equal files all but one
    by_class: dict[str, int]  # the copies by class
    num_other_class: int  # sets of equal files with more than one class
    num_leaks: int  # sets with a train and a test video of one official fold
    examples: tuple[tuple[str, ...], ...]  # sets of paths, leaks first

    def lines(self) -> list[str]:
        """A report for a terminal; empty if there are no copies."""
        if not self.num_copies:
            return []
        classes = ", ".join(f"{name or 'no label'} {count}" for name, count in list(self.by_class.items())[:5])
        more = f" and {len(self.by_class) - 5} more classes" if len(self.by_class) > 5 else ""
        lines = [
            f"{plural(self.num_copies, 'video is a copy', 'videos are copies')} of another file, byte for byte ({classes}{more}):"
        ]
        lines += [f"  {' = '.join(paths[:3])}{' = …' if len(paths) > 3 else ''}" for paths in self.examples]
        if self.num_other_class:
            lines.append(f"  in more than one class: {self.num_other_class} sets of equal files")
        if self.num_leaks:
            lines.append(f"  in both train and test: {self.num_leaks} sets of equal files; a test on them is not clean")
        return lines


def find_copies(videos: VideoTable) -> Copies:
    """Find the copies among the written videos of a manifest, by the sha256 of the source files; segments by their times, too."""
    # Plain counting: pyarrow's compute functions take longer to import than this takes.
    digests, states = videos.column("source_sha256"), videos.column("status")
    if videos.has_segments:
        digests = [digest and f"{digest} {times}" for digest, (_, *times) in zip(digests, videos.places(), strict=True)]
    written = [index for index, state in enumerate(states) if state == WRITTEN and digests[index]]
    counts = Counter(digests[index] for index in written)
    repeated = [index for index in written if counts[digests[index]] > 1]
    sets: dict[str, list[tuple[str, str, list[str]]]] = {}
    chosen = videos.take(repeated).arrow
    columns = (chosen[name].to_pylist() for name in ("path", "class_name", "subsets"))
    for index, path, class_name, subsets in zip(repeated, *columns, strict=True):
        sets.setdefault(digests[index], []).append((path, class_name, subsets))
    ordered = sorted((sorted(files) for files in sets.values()), key=lambda files: (not _is_leak(files), files))
    by_class = Counter(class_name for files in ordered for _, class_name, _ in files[1:])
    return Copies(
        num_copies=sum(len(files) - 1 for files in ordered),
        by_class=dict(sorted(by_class.items(), key=lambda entry: (-entry[1], entry[0]))),
        num_other_class=sum(len({class_name for _, class_name, _ in files} - {""}) > 1 for files in ordered),
        num_leaks=sum(map(_is_leak, ordered)),
        examples=tuple(tuple(path for path, _, _ in files) for files in ordered[:_EXAMPLES]),
    )


def _is_leak(files: list[tuple[str, str, list[str]]]) -> bool:
    """Whether some fold has one of the equal files in train and another in test."""
    folds = zip(*(subsets for _, _, subsets in files), strict=False)
    return any({"train", "test"} <= set(fold) for fold in folds)
