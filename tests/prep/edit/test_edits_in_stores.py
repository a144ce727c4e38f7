"""Edits of data sets in an object store: merged from there, changed there."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from manifests.manifest_io import read_manifest, read_originals
from manifests.records import InputError
from tests.object_store import ObjectStore
from tgprep.check.check import check
from tgprep.edit.drop import drop, restore
from tgprep.edit.merge import merge
from tgprep.edit.relabel import relabel


def test_edits_in_an_object_store(first_made: Path, second_made: Path, tmp_path: Path, store: ObjectStore) -> None:
    place = store.bucket("edits") + "/data"
    fsspec.filesystem("s3").put(f"{first_made}/", f"{place}/", recursive=True)
    before = read_manifest(place).digest
    assert drop(place, ["clap/v_g00"]).num_changed == 1
    (tmp_path / "labels.csv").write_text("key,label\nclap/v_g01,bow\n")
    assert relabel(place, tmp_path / "labels.csv").new_classes == ("bow",)
    assert len(read_originals(read_manifest(place))) == 2
    report = check(place, deep=True)
    assert report.sound, report.findings
    merged = merge([place, str(second_made)], tmp_path / "m")
    assert (merged.num_linked, merged.num_copied) == (len(list(second_made.glob("*.tar"))), 3)
    assert check(str(tmp_path / "m"), deep=True).sound
    with pytest.raises(InputError, match="a local folder is needed"):
        merge([place, str(second_made)], f"{place}-merged")
    (tmp_path / "labels.csv").write_text("key,label\nclap/v_g01,clap\n")
    restore(place)
    relabel(place, tmp_path / "labels.csv")
    assert read_manifest(place).digest == before  # of the tables; the class bow stays in the header
    assert not [name for name in store.tree(place) if ".tgprep" in name or "originals" in name]
