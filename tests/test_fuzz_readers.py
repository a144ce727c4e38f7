"""Nearly right files by the hundred thousand: each reader gives a value or its own error, quickly and in little memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
import pyarrow as pa
import pytest
import torch

from manifests.lists.kinetics import is_kinetics_csv, read_kinetics
from manifests.lists.ucf_hmdb import read_class_index, read_hmdb51, read_ucf101
from manifests.machine import peak_memory_mb
from manifests.manifest_io import HEADER_NAME, json_bytes, read_header, read_manifest
from manifests.parquet import table_bytes
from manifests.records import InputError
from manifests.sample import decode_offsets, encode_offsets
from manifests.splits.lists import read_list
from manifests.table import Manifest
from manifests.targets.score_file import read_scores
from manifests.targets.target_file import Targets, first_problem, read_targets, target_table
from tests.conftest import Reliability
from tests.mutation import Mutator
from tests.train.support import write_data_set
from tgprep.check.shard import check_shard
from tgprep.check.tables import rows_by_shard
from tgprep.obtain.unpack import unpack
from tgtrain.config import load_recipe
from tgtrain.data.stores.shard_source import BrokenStreamError, ShardSource
from tgtrain.run.folder import CONFIG_NAME, read_facts
from tgtrain.run.state_file import load_tensors

COUNTS = pytest.mark.parametrize("count", [200, pytest.param(100_000, marks=pytest.mark.long)])
RECIPES = Path(__file__).parents[1] / "tgtrain" / "recipes"
FIXTURE = Path(__file__).parent / "fixtures" / "old_run"
MOST_SECONDS = 10.0  # of the processor for one input
MOST_MB = 500.0


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory if there is one: every input is written there."""
    in_memory = Path("/dev/shm")
    with TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as folder:
        yield Path(folder)


def fuzz(what: str, mutator: Mutator, count: int, read: Callable[[bytes], bool], reliability: Reliability) -> None:
    """Give so many inputs to `read`, which returns whether it accepted one and lets unexpected errors through."""
    num_accepted, longest, before = 0, 0.0, peak_memory_mb()
    for number in range(count):
        content, began = mutator.next(), time.process_time()
        try:
            num_accepted += read(content)
        except Exception as error:
            place = Path(gettempdir(), f"fuzz-{hashlib.sha256(content).hexdigest()[:12]}")
            place.write_bytes(content)
            raise AssertionError(
                f"input {number} of {what} (kept in {place}): {type(error).__name__}: {error}"
            ) from error
        longest = max(longest, time.process_time() - began)
    assert 0 < num_accepted < count, num_accepted
    assert longest < MOST_SECONDS
    grown = peak_memory_mb() - before
    assert grown < MOST_MB
    reliability.record(
        "Hostile inputs",
        f"{what}, nearly right: a value or one message",
        num_inputs=count, num_accepted=num_accepted, num_other_errors=0, longest_ms=round(1000 * longest),
        peak_growth_mb=round(grown),
    )  # fmt: skip


@COUNTS
def test_offsets(count: int, reliability: Reliability) -> None:
    seeds = [encode_offsets(list(range(0, 700 * size, 700))) for size in (2, 3, 30)]
    tokens = (b"'|O'", b"'<f8'", b"'>u8'", b"'<i8'", b"(1000000000000,)", b"(3, 3)", b"()", b"(-1,)", b"True", b"\x02\x00", b"\x03\x00",
              b"\x93NUMPY", b"(" * 300, b"[('a','<u8')]", b"__import__('os')", b"'descr'")  # fmt: skip

    def read(content: bytes) -> bool:
        try:
            offsets = decode_offsets(content, mp4=bool(len(content) % 2))
        except ValueError:
            return False
        assert offsets.dtype.kind == "u"
        return True

    fuzz("Indices of frames (.offsets.npy)", Mutator(1, seeds, tokens, [(0, 128)]), count, read, reliability)


@pytest.fixture(scope="module")
def manifest(memory: Path) -> Manifest:
    root = memory / "set"
    write_data_set(root, num_classes=1, groups=4, num_frames=2, num_shards=1)
    return read_manifest(root)


@COUNTS
def test_tar_index(manifest: Manifest, memory: Path, count: int, reliability: Reliability) -> None:
    """A shard as `check` examines it, as a stream of samples, and as an archive to unpack."""
    (shard,) = manifest.shards
    content = (Path(manifest.root) / shard.name).read_bytes()
    heads = [(place, 512) for place in range(0, len(content), 512) if content[place + 257 : place + 262] == b"ustar"]
    tokens = (b"\x80" + bytes(11), b"\xff" * 12, b"-0000000001", b"77777777777", b"../../x", b"/etc/x", b"ustar\x0000", b"GNU.sparse.map=0,1",
              b"30 size=999999999999999999\n", b"L", b"x", b"g", b"S", b"2")  # fmt: skip
    rows, place = rows_by_shard(manifest), Path(manifest.root) / shard.name
    copy = memory / "copy.tar"
    source = ShardSource(str(memory), num_bytes={copy.name: shard.num_bytes})

    def read(changed: bytes) -> bool:
        place.write_bytes(changed)
        report = check_shard(manifest, rows, shard, deep=False, mend="")
        assert report.damaged == (changed != content)
        assert report.damaged == bool(report.findings)
        copy.write_bytes(changed)
        try:
            for _ in source.samples(copy.name):
                pass
            if len(changed) % 4 == 0:  # it takes longest
                unpack(copy, memory / "out")
                shutil.rmtree(memory / "out")
        except (BrokenStreamError, InputError):
            return False
        return True

    fuzz("Shards (headers of the tar)", Mutator(2, [content], tokens, heads), count, read, reliability)
    place.write_bytes(content)


@COUNTS
def test_lists(memory: Path, count: int, reliability: Reliability) -> None:
    """Lists of videos: those of UCF101, HMDB51 and Kinetics, tables, JSON, lines."""
    seeds = [
        b"1 ApplyEyeMakeup\n2 ApplyLipstick\n3 Archery\n",
        b"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nArchery/v_Archery_g09_c02.avi 3\n",
        b"a_wave_u_cm_np1_ba_med_2.avi 1 \nb.avi 2 \nc.avi 0 \n",
        b"label,youtube_id,time_start,time_end,split\nabseiling,0347ZoDXyP0,95,105,train\narchery,-0jYMEzqkCY,1,11,validate\n",
        b'"path","label"\n"A/x.avi","0"\n"B/y z.avi","1.0"\n',
        b"A/x 120 0\nB/y 90 1\n",
        b"file_name;class\nA/x.avi;Walk\nB/y.avi;Run\n",
        b'[{"frame_dir": "A/x", "total_frames": 120, "label": 0}, {"filename": "B/y.avi", "label": 1}]',
        "path\tlabel\nÄ/ö.avi\tGehen\n".encode("utf-16"),
    ]
    tokens = (b",", b";", b"\t", b"\r\n", b"\n\n", b'""', b'"\n', b"'", b"..", b"/", b"train", b"test", b"nan", b"inf", b"1e309", b"-1", b"0.5",
              b"label", b"path", b"split", b"[" * 2000, b'{"a":' * 2000, b"\xc3\x28", b"\xf0\x9f\x98\x80", b"\x1a", b"=cmd()", b"A/x.avi,0\n" * 50)  # fmt: skip
    for name in ("ucf", "hmdb"):
        (memory / name).mkdir()
    (memory / "ucf" / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")

    def read(content: bytes) -> bool:
        files = [memory / "list.txt", memory / "list.csv", memory / "list.json", memory / "ucf" / "trainlist01.txt",
                 memory / "hmdb" / "wave_test_split1.txt", memory / "classInd.txt"]  # fmt: skip
        for file in files:
            file.write_bytes(content)
        is_kinetics_csv(files[1])
        num_read = 0
        for reader in (
            lambda: read_list(files[len(content) % 3]),
            lambda: read_kinetics("kinetics400" if len(content) % 2 else "kinetics700", [files[1]]),
            lambda: read_ucf101(memory / "ucf"),
            lambda: read_hmdb51(memory / "hmdb"),
            lambda: read_class_index(files[5]),
        ):
            try:
                reader()
                num_read += 1
            except InputError:
                continue
        return num_read > 0

    fuzz("Lists of videos", Mutator(3, seeds, tokens), count, read, reliability)


CLASSES = ("Archery", "Bowling", "Diving")


def score_tables() -> list[bytes]:
    """Parquet files of scores: as columns of the classes, as a list, and as `tgprep targets` stores them."""
    keys, rows = ["Archery/a", "Bowling/b"], np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], np.float32)
    columns = pa.table({"key": keys, **{name: rows[:, number] for number, name in enumerate(CLASSES)}})
    lists = pa.table({"key": keys, "scores": rows.tolist()})
    return [
        *map(table_bytes, (columns, lists)),
        table_bytes(target_table(Targets("t", tuple(keys), rows, CLASSES, {}))),
    ]


@COUNTS
def test_scores(memory: Path, count: int, reliability: Reliability) -> None:
    """Tables of scores and of classes, as `tgprep targets --import` reads them: csv and Parquet."""
    tables = score_tables()
    seeds = [
        b"key,Archery,Bowling,Diving\nArchery/a,0.7,0.2,0.1\nBowling/b,0,1,0\n",
        b"key;class\nArchery/a;Diving\nBowling/b;Archery\n",
        "key\tclass\nArchery/a\tDiving\n".encode("utf-16"),
        *tables,
    ]
    tokens = (b",", b";", b"\t", b"\r\n", b'""', b"nan", b"inf", b"1e309", b"-1", b"0.5", b"key", b"Archery", b"PAR1", b"\x00" * 8, b"\xff" * 8,
              b"\x7f" * 4, b"Archery/a,0,0,1\n" * 50)  # fmt: skip

    def read(content: bytes) -> bool:
        file = memory / ("scores.parquet" if content[:4] == b"PAR1" else "scores.csv")
        file.write_bytes(content)
        try:
            found = read_scores(file, CLASSES)
        except InputError:
            return False
        assert found.probabilities.shape == (len(found.keys), len(CLASSES))
        assert not len(found.probabilities) or first_problem(found.probabilities) is None
        return True

    heads = [(len(table) - 600, len(table)) for table in tables]
    fuzz("Scores (csv, Parquet)", Mutator(8, seeds, tokens, heads), count, read, reliability)


@COUNTS
def test_targets(memory: Path, count: int, reliability: Reliability) -> None:
    content = score_tables()[-1]
    (memory / "targets").mkdir(exist_ok=True)
    tokens = (
        b"PAR1",
        b"\x00" * 8,
        b"\xff" * 8,
        b"Archery/a",
        b"../x",
        b'["Archery"]',
        b'{"a":1}',
        b"[" * 2000,
        b"\x7f" * 4,
    )
    read = accepts(lambda folder: read_targets(folder, "t", CLASSES), memory, "targets/t.parquet")
    mutator = Mutator(9, [content], tokens, [(len(content) - 900, len(content))])
    fuzz("Soft targets (targets/NAME.parquet)", mutator, count, read, reliability)


@COUNTS
def test_recipes(memory: Path, count: int, reliability: Reliability) -> None:
    seeds = [path.read_bytes() for path in sorted(RECIPES.glob("*.toml"))]
    tokens = (b"[", b"]", b"{", b"}", b"=", b".", b"[[", b'"""', b"'''", b"#", b"0x", b"1_0", b"1e999", b"nan", b"-inf", b"true", b"1979-05-27", b"[data]\n",
              b"[data.size]\n", b"[method]\n", b'extends = "', b'extends = "r.toml"\n', b"[" * 3000, b"a." * 3000, b"{a=" * 3000, b"\\u0000", b"\\ud800",
              b"0x" + b"f" * 9000, b"size = ", b"epochs = -1\n", b"quirks = [", b"model = 3\n")  # fmt: skip
    path = memory / "r.toml"

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            config = load_recipe(str(path))
        except InputError:
            return False
        assert config.name == "r"
        return True

    fuzz("Recipes (TOML)", Mutator(4, seeds, tokens), count, read, reliability)


@COUNTS
def test_weights(memory: Path, count: int, reliability: Reliability) -> None:
    """Files to start from: torch's zip and its older form, and safetensors, as `tgtrain run --init` reads them."""
    content = {
        "epoch": 3,
        "state_dict": {"module.stem.0.weight": torch.ones(4, 3), "module.stem.1.bias": torch.zeros(4).half()},
    }
    seeds, heads = [], [(0, 400)]
    for is_zip in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
        seeds.append(buffer.getvalue())
    tensors = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    seeds.append(len(tensors).to_bytes(8, "little") + tensors + bytes(24))
    tokens = (b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nLongStorage\n", b"R", b"b", b"\x81", b"Q", b"X\xff\xff\xff\x7f",
              b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\x7f" * 8, b"h\x00", b"}(", b"u.", b"PK\x05\x06", b"big", b'"F64"', b'"BOOL"', b"[4294967296]",
              b"\x7f" * 8, b'"__metadata__":{"a":"b"},')  # fmt: skip

    def read(changed: bytes) -> bool:
        (memory / "weights").write_bytes(changed)
        try:
            with (memory / "weights").open("rb") as file:
                found = load_tensors(file)
        except ValueError:
            return False
        assert all(isinstance(value, torch.Tensor) for value in found.values())
        return True

    fuzz("Weights to start from (.pth, safetensors)", Mutator(7, seeds, tokens, heads), count, read, reliability)


def accepts(reader: Callable[[Path], object], folder: Path, name: str) -> Callable[[bytes], bool]:
    """Whether a reader of a folder accepts a content of the file `name` in it; it may refuse it with InputError alone."""

    def read(content: bytes) -> bool:
        (folder / name).write_bytes(content)
        try:
            reader(folder)
        except InputError:
            return False
        return True

    return read


ODD = (b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"1" * 400, b"1" * 5000, b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b'"../x"', b"[" * 2000,
       b'{"a":' * 2000, b'"a":1,', b'"' + b"n" * 4000 + b'"', b",", b":", b'"settings": ', b'"classes": ')  # fmt: skip


@COUNTS
def test_headers(manifest: Manifest, memory: Path, count: int, reliability: Reliability) -> None:
    header = replace(
        manifest.header,
        settings={"quality": 95, "store": "video", "gop": 8, "crf": 19, "decoder": "pyav"},
        header_sha256="",
    )
    facts = json.loads((Path(manifest.root) / HEADER_NAME).read_bytes())
    facts |= {"settings": header.settings, "header_sha256": ""}
    seeds = [json_bytes(facts), json.dumps(facts).encode(), (FIXTURE / "dataset" / HEADER_NAME).read_bytes()]

    read = accepts(read_header, memory, HEADER_NAME)
    fuzz("Headers of data sets (dataset.json)", Mutator(5, seeds, ODD), count, read, reliability)


@COUNTS
def test_run_configs(memory: Path, count: int, reliability: Reliability) -> None:
    facts = json.loads((FIXTURE / "run" / CONFIG_NAME).read_bytes())
    seeds = [json_bytes(facts), json.dumps(facts).encode()]

    read = accepts(read_facts, memory, CONFIG_NAME)
    fuzz("Settings of runs (config.json)", Mutator(6, seeds, ODD), count, read, reliability)
