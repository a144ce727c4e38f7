"""croissant.json: the data set in the Croissant 1.0 vocabulary, with the sha256 of every file and the columns of its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from manifests.files import Location, below, read_json
from manifests.manifest_io import SPLITS_FOLDER, VIDEOS_NAME
from manifests.records import InputError
from manifests.splits.label_split import SPLIT_SCHEMA
from manifests.table import Manifest
from manifests.targets.target_file import TARGET_SCHEMA, TARGETS_FOLDER
from tgprep.share.facts import Facts, sound
from tgprep.share.tables import TableFile

CROISSANT_NAME = "croissant.json"
_SPEC = "http://mlcommons.org/croissant/1.0"
_KEYWORDS = ("action recognition", "video", "temporal gradient", "semi-supervised learning", "WebDataset")
_MARK = {
    "@type": "sc:SoftwareApplication",
    "name": "tgprep card",
}  # of our files, by schema.org: the publisher of the description
_PROPERTIES = {
    "name": "name",
    "description": "description",
    "license": "license",
    "homepage": "url",
    "citation": "citeAs",
    "date_published": "datePublished",
    "data_version": "version",
}
_SHORTENED = (
    "citeAs column conformsTo containedIn data dataType equivalentProperty examples extract field fileProperty fileObject fileSet "
    "format includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate "
    "separator source subField transform"
)
_SPECIAL: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
_CONTEXT = {name: f"cr:{name}" for name in _SHORTENED.split() if name != "containedIn"} | _SPECIAL
_FORMATS = {"json": "application/json", "parquet": "application/x-parquet", "tar": "application/x-tar"}


def earlier_facts(root: Location) -> dict[str, str]:
    """The owner's facts in the croissant.json of an earlier card; none without one. InputError if the file is of somebody else."""
    place = below(root, CROISSANT_NAME)
    try:
        found = read_json(place)
        if not isinstance(found, dict) or found.get("sdPublisher") != _MARK:
            raise ValueError("it was not written by `tgprep card`")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{place}: {error}. Move it elsewhere, or replace it with --force.") from None
    creator = found.get("creator")
    values = {name: found.get(key) for name, key in _PROPERTIES.items()}
    if isinstance(creator, dict):
        values["creator"] = creator.get("name")
    return sound(values)


def croissant_bytes(manifest: Manifest, facts: Facts, tables: Sequence[TableFile]) -> bytes:
    """Format the file: ASCII alone, so that no name in it can be more than text; the same bytes for the same data set and facts."""
    files = [*tables, *(TableFile(shard.name, shard.num_bytes, shard.sha256) for shard in manifest.shards)]
    values = facts.given()
    described: dict[str, Any] = {
        "@context": dict(sorted(_CONTEXT.items())),
        "@type": "sc:Dataset",
        "conformsTo": _SPEC,
        **{key: values[name] for name, key in _PROPERTIES.items() if name in values},
        "keywords": list(_KEYWORDS),
        "sdPublisher": _MARK,
    }
    if facts.creator:
        described["creator"] = {"@type": "sc:Organization", "name": facts.creator}
    described["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.num_bytes} B",
            "encodingFormat": _FORMATS[file.path.rpartition(".")[2]],
            "sha256": file.sha256,
        }
        for file in files
    ]
    described["recordSet"] = list(_record_sets(manifest, [table.path for table in tables]))
    return (json.dumps(described, indent=1) + "\n").encode()


def _record_sets(manifest: Manifest, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    columns = "docs/format.md of tgprep explains the columns"
    text = f"One record per source video, also those that failed or were skipped (column `status`); {columns}."
    yield _record_set("videos", VIDEOS_NAME, manifest.videos.arrow.schema, text)
    for path in paths:
        folder, _, name = path.removesuffix(".parquet").rpartition("/")
        if folder == SPLITS_FOLDER:
            text = f"Label split {name}: one record per video, with its label and its parts; {columns}."
            yield _record_set(f"{folder}/{name}", path, SPLIT_SCHEMA, text)
        elif folder == TARGETS_FOLDER:
            text = f"Soft targets {name}: the probability of each class, in the order of dataset.json; {columns}."
            yield _record_set(f"{folder}/{name}", path, TARGET_SCHEMA, text)


def _record_set(name: str, path: str, schema: pa.Schema, text: str) -> dict[str, Any]:
    fields = []
    for column in schema:
        is_list = pa.types.is_list(column.type)
        described = {
            "@type": "cr:Field",
            "@id": f"{name}/{column.name}",
            "name": column.name,
            "dataType": _data_type(column.type.value_type if is_list else column.type),
            "source": {"fileObject": {"@id": path}, "extract": {"column": column.name}},
        }
        fields.append(described | ({"repeated": True} if is_list else {}))
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": text, "field": fields}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
