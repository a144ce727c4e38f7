"""Files of scores become targets: every form that is read, and what is refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.records import InputError
from manifests.table import Manifest
from manifests.targets.import_targets import TargetSettings, import_targets
from manifests.targets.target_file import Targets
from tests.manifests.targets.support import CLASSES, manifest_of, random_rows

KEYS = ["Archery/v_00", "Basket_Ball/v_01", "Cut/v_02"]
ROWS = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0, 0, 1]], np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifest_of(tmp_path_factory.mktemp("targets") / "set")


def made(manifest: Manifest, *files: Path, **settings: Any) -> Targets:
    return import_targets(manifest, files, TargetSettings(name="x", **settings))


def csv_of(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_csv_with_a_column_for_each_class(manifest: Manifest, tmp_path: Path) -> None:
    """Names in any order and spelling, paths in place of keys, tabs; a column of true labels is not read."""
    file = csv_of(
        tmp_path / "a.tsv", "video path\tcut\tarchery\tBasket_Ball\tlabel",
        "videos/Archery/v_00.mp4\t0.25\t0.5\t0.25\t2", "Basket Ball/v_01.avi\t.125\t.125\t.75\t2", "Cut/v_02\t1\t0\t0\t0",
    )  # fmt: skip
    found = made(manifest, file)
    assert list(found.key) == KEYS
    np.testing.assert_array_equal(found.probabilities, ROWS)
    assert found.provenance["file_1"].startswith("a.tsv sha256 ")
    assert found.provenance["file_1_form"] == "probabilities"
    assert found.provenance["dataset_digest"] == manifest.digest


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float16())])
@pytest.mark.parametrize("name", ["probabilities", "scores"])
def test_parquet_with_lists(manifest: Manifest, tmp_path: Path, kind: pa.DataType, name: str) -> None:
    rows = [[kind.value_type.to_pandas_dtype()(v) for v in row] for row in ROWS.tolist()]
    pq.write_table(pa.table({"key": KEYS, "label": [2, 2, 0], name: pa.array(rows, kind)}), tmp_path / "a")
    np.testing.assert_array_equal(made(manifest, tmp_path / "a").probabilities, ROWS)


def test_parquet_with_a_column_for_each_class_or_one_class_a_row(manifest: Manifest, tmp_path: Path) -> None:
    columns = {name: ROWS[:, label] for label, name in enumerate(CLASSES)}
    pq.write_table(pa.table({"key": KEYS, **columns}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(made(manifest, tmp_path / "a.parquet").probabilities, ROWS)
    pq.write_table(
        pa.table({"key": KEYS, "predicted_class": ["cut", "archery", "Basket_Ball"]}), tmp_path / "b.parquet"
    )
    found = made(manifest, tmp_path / "b.parquet")
    assert found.probabilities.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert found.provenance["file_1_form"] == "classes"


def test_predictions_of_a_run_are_logits_with_classes_of_their_own(manifest: Manifest, tmp_path: Path) -> None:
    """The truth beside the scores is not read; outputs beyond the classes are left out; the run is kept in the provenance."""
    facts = {
        "classes": [*CLASSES, "unused-3"],
        "average": "logits",
        "run": "runs/a",
        "split": "p20",
        "split_digest": "ab",
    }
    logits = np.array([[1, 2, 3, 9], [0, 0, 0, 9], [-1e4, 1e4, 0, 0]], np.float32)
    table = pa.table({"key": KEYS, "label": [0, 1, 2], "class_name": list(CLASSES), "scores": list(logits)})
    pq.write_table(table.replace_schema_metadata({"tgtrain": json.dumps(facts)}), tmp_path / "p.parquet")
    found = made(manifest, tmp_path / "p.parquet")
    expected = np.exp(logits[:2, :3].astype(float))
    np.testing.assert_allclose(found.probabilities[:2], expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)
    assert found.probabilities[2].tolist() == [0, 1, 0]
    assert json.loads(found.provenance["file_1_run"]) == {
        "average": "logits", "run": "runs/a", "split": "p20", "split_digest": "ab",
    }  # fmt: skip
    table = table.replace_schema_metadata({"tgtrain": json.dumps({**facts, "classes": ["Archery", "Dive", "Cut"]})})
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(InputError, match=r"q\.parquet: its classes differ .* such as 'Dive'"):
        made(manifest, tmp_path / "q.parquet")


def test_logits_with_a_temperature(manifest: Manifest, tmp_path: Path) -> None:
    file = csv_of(tmp_path / "a.csv", "key,0,1,2", "Cut/v_00,0.30,0.25,0.1")
    found = made(manifest, file, scores="logits", temperature=0.01)
    expected = np.exp(np.array([30, 25, 10.0]))
    np.testing.assert_allclose(found.probabilities[0], expected / expected.sum(), rtol=1e-4)
    assert found.provenance["file_1_temperature"] == "0.01"
    with pytest.raises(InputError, match="--temperature divides logits"):
        made(manifest, file, temperature=0.5)


def test_several_files_are_averaged_over_those_that_have_a_video(manifest: Manifest, tmp_path: Path) -> None:
    one, two = random_rows(3, seed=1), random_rows(2, seed=2)
    pq.write_table(pa.table({"key": KEYS, "probs": list(one)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"key": KEYS[:0:-1], "probs": list(two)}), tmp_path / "b.parquet")
    found = made(manifest, tmp_path / "a.parquet", tmp_path / "b.parquet")
    expected = [one[0], (one[1] + two[1]) / 2, (one[2] + two[0]) / 2]
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-6)
    assert found.provenance["num_in_some_files"] == "1"
    assert found.provenance["file_2"].startswith("b.parquet sha256 ")
    with pytest.raises(InputError, match="same content"):
        made(manifest, tmp_path / "a.parquet", tmp_path / "a.parquet")


H = "key,Archery,Basket_Ball,Cut"
GOOD = "Archery/v_00,0.5,0.25,0.25"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([H, GOOD, "Cut/v_99,1,0,0"], r"a\.csv:3: 'Cut/v_99': no such video in the data set; 1 of 2 rows"),
        ([H, "Cut/v_00,1,0,0", "", "cut/v_00.avi,0,1,0"], r"a\.csv:4: 'cut/v_00.avi' was there before, at .*a\.csv:2"),
        ([H, GOOD, "Cut/v_01,-0.1,0.6,0.5"], r"a\.csv:3: the row of 'Cut/v_01' holds -0.1, which is negative"),
        ([H, "Cut/v_01,nan,0.5,0.5"], r"a\.csv:2: .* holds NaN"),
        ([H, "Cut/v_01,inf,0.5,0.5"], r"a\.csv:2: .* holds NaN or an infinite number"),
        ([H, "Cut/v_01,0.2,0.3,0.4"], r"a\.csv:2: .* sums to 0.9, expected 1.*--scores logits"),
        ([H, "Cut/v_01,0.2,some,0.4"], r"a\.csv:2: 'some' is no number"),
        ([H, "Cut/v_01,0.2,,0.8"], r"a\.csv:2: '' is no number"),
        ([H, "Cut/v_01,0.2,0.8"], r"a\.csv:2: 3 cells, the header has 4"),
        ([H, 'Cut/v_01,0.2,"0.8,0'], r"a\.csv:2: is no csv"),
        (["key,Archery,Cut", "Cut/v_01,0,1"], r"a\.csv: its classes differ .*no column for 1 of 3 classes, such as 'Basket Ball'"),
        ([f"{H},Dive", f"{GOOD},0"], r"a\.csv: its classes differ .*1 columns are no class of it, such as 'Dive'"),
        (["who,Archery,Basket_Ball,Cut", GOOD], r"a\.csv: no column names the videos"),
        (["key,width", "Cut/v_01,4"], r"a\.csv: no scores in its columns"),
        (["key,label", "Cut/v_01,Dive"], r"a\.csv:2: 'Dive' is none of the 3 classes"),
        (["key,label", "Cut/v_01,3"], r"a\.csv:2: '3' is none of the 3 classes"),
        ([H], r"a\.csv holds no video"),
    ],
)  # fmt: skip
def test_bad_rows_are_named_by_file_and_line(
    manifest: Manifest, tmp_path: Path, lines: list[str], message: str
) -> None:
    file = csv_of(tmp_path / "a.csv", *lines)
    with pytest.raises(InputError, match=message):
        made(manifest, file)


def test_unknown_videos_can_be_left_out(manifest: Manifest, tmp_path: Path) -> None:
    file = csv_of(tmp_path / "a.csv", H, GOOD, "Cut/v_99,1,0,0", "Other/v_00,1,0,0")
    found = made(manifest, file, skip_unknown=True)
    assert list(found.key) == ["Archery/v_00"]
    assert found.provenance["file_1_num_unknown"] == "2"
    with pytest.raises(InputError, match="no row names a video"):
        made(manifest, csv_of(tmp_path / "b.csv", H, "Cut/v_99,1,0,0"), skip_unknown=True)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[0.5, 0.5, 0], [0.5, 0.5]]), r"a\.parquet:2: 2 scores, but the data set has 3 classes"),
        (pa.array([[0.5, 0.5, 0], None]), r"a\.parquet: column probs holds nulls"),
        (pa.array([[0.5, 0.5, 0], [0.5, None, 0.5]]), r"a\.parquet: column probs holds nulls"),
        (pa.array([[0.5, 0.5, 0], [0.5, None, 0.5]], pa.list_(pa.float32(), 3)), r"a\.parquet: 1 score is empty"),
        (pa.array([[0.5, 0.5, 0], [0.5, float("nan"), 0.5]]), r"a\.parquet:2: .* holds NaN"),
    ],
)
def test_bad_parquet(manifest: Manifest, tmp_path: Path, column: pa.Array, message: str) -> None:
    pq.write_table(pa.table({"key": KEYS[:2], "probs": column}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        made(manifest, tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.parquet is no valid Parquet file"):
        made(manifest, tmp_path / "cut.parquet")
    with pytest.raises(InputError, match="no such file"):
        made(manifest, tmp_path / "none.parquet")
