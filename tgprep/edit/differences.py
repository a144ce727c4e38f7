"""Whether data sets can be one: the settings that readers and `check` need to be equal, and what the merged header says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manifests.datasets import groups_span_classes
from manifests.records import InputError, ManifestHeader
from manifests.table import Manifest
from tgprep.config import EARLIER, ExtractSettings

# How the work was divided, and what was done with damaged videos, does not show in the frames.
IGNORED = ("videos_per_shard", "on_damage")
_MAX_SHOWN = 40  # characters of a value in the table


def refuse_differences(sources: Sequence[Manifest]) -> None:
    """InputError with a table of what differs between data sets, if that matters to those who read the merged one."""
    facts = [_facts(source) for source in sources]
    names = [name for name in dict.fromkeys(name for of_one in facts for name in of_one) if name not in IGNORED]
    rows = [(name, [str(of_one.get(name, "-"))[:_MAX_SHOWN] for of_one in facts]) for name in names]
    folds = {source.header.num_folds for source in sources} - {0}
    if len(folds) > 1:
        rows.append(("official folds", [str(source.header.num_folds) for source in sources]))
    if differing := [(name, values) for name, values in rows if len(set(values)) > 1]:
        titles = ("", [source.root for source in sources])
        widths = [max(len(values[place]) for _, values in [titles, *differing]) for place in range(len(sources))]
        lines = [
            f"  {name:<16}"
            + "  ".join(f"{value:<{width}}" for value, width in zip(values, widths, strict=True)).rstrip()
            for name, values in [titles, *differing]
        ]
        raise InputError(
            "these data sets were made with other settings, so no reader could take them as one:\n"
            + "\n".join(lines)
            + "\nExtract one of them again with the settings of the other."
        )


def _facts(source: Manifest) -> dict[str, Any]:
    header, columns = source.header, source.videos
    defaults = {name: field.default for name, field in ExtractSettings.model_fields.items()}
    # A setting that is younger than a data set has the value that was then the only one.
    settings = header.settings if "imported" in header.settings else {**defaults, **EARLIER, **header.settings}
    gradient = {f"gradient {name}": getattr(header.gradient, name) for name in ("source", "space", "stored")}
    return {"format version": header.format_version, **settings, **gradient, "segments": columns.has_segments}


def merged_header(sources: Sequence[Manifest], classes: tuple[str, ...]) -> ManifestHeader:
    """The header of the merged data set, without counts and digests."""
    headers = [source.header for source in sources]
    settings: dict[str, Any] = {}
    for header in reversed(headers):  # of what does not matter the first data set decides
        settings |= header.settings
    if len({header.settings.get("on_damage") for header in headers}) > 1:
        settings["on_damage"] = "keep"  # a repair must be able to make every sample again
    versions: dict[str, str] = {}
    for name, version in (pair for header in headers for pair in header.versions.items()):
        before = versions.get(name, version)
        versions[name] = before if version in before.split(", ") else f"{before}, {version}"
    num_folds = max(header.num_folds for header in headers)
    return ManifestHeader(_kind(sources), classes, headers[0].gradient, settings, versions, num_folds)


def _kind(sources: Sequence[Manifest]) -> str:
    """The kind of the merged data set; of several kinds a plain one in which no group is taken for two."""
    kinds = [source.header.dataset for source in sources]
    if len(set(kinds)) == 1:
        return kinds[0]
    spans = any(groups_span_classes(source.header.dataset) and any(source.videos.column("group")) for source in sources)
    return "csv" if spans else "folder"
