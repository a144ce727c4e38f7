"""Lists with anything in them: each reader takes them or says in one message what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.lists.kinetics import is_kinetics_csv, read_kinetics
from manifests.lists.ucf_hmdb import read_class_index, read_hmdb51, read_ucf101
from manifests.records import InputError
from tests.manifests.splits.support import imported, row, small
from tests.reliability import Reliability
from tgprep.scan.csv_list import by_csv
from tgprep.scan.files import Listing, VideoFile

_LISTS = (
    "path,label\nrun/a.avi,1\njump/b c.avi,0\n",
    '"path";"label";"split"\n"run/a.avi";"run";"train"\n',
    "run/a.avi 100 1\njump/b c 20 0\n",
    "label,youtube_id,time_start,time_end,split\nzumba,AAAAAAAAAAA,1,11,train\nair,BBBBBBBBBBB,2,12,val\n",
    '[{"filename":"run/a.avi","label":[1],"total_frames":3},{"frame_dir":"jump/b c","label":0}]',
    "Archery/v_a.avi 3\nDiving/v_x_g01_c01.avi 26\n",
    "a.avi 1\nb.avi 2\nc.avi 0\n",
    "1 Diving\n2 B\n",
)
_PIECES = (
    *"\"',;\t|\0\r\n{[\\/ #\ufeff\u2028\x85\u00b2\u0663\u00e9",
    *[
        "nan",
        "-1",
        "0.0",
        "1e400",
        "path",
        "label",
        "split",
        "fold",
        "test",
        "train",
        "youtube_id",
        "time_start",
        "sep=;",
        "..",
        "//",
        "true",
        "null",
    ],
    "9" * 400,
    "e\u0301",
    "[" * 3000,
    "\ud800",
)


def _changed(rng: random.Random) -> bytes:
    """A list with up to six changes, in some encoding."""
    text = rng.choice(_LISTS)
    for _ in range(rng.randint(0, 6)):
        first, last = sorted(rng.randint(0, len(text)) for _ in range(2))
        text = (
            text[:first]
            + rng.choice((rng.choice(_PIECES), "", text[first:last] * 2))
            + text[rng.choice((first, last)) :]
        )
    content = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
    place = rng.randint(0, 10 * len(content))
    return content[:place] + rng.randbytes(1) + content[place + 1 :] if place < len(content) else content


@pytest.mark.parametrize("num_lists", [150, pytest.param(17_000, marks=pytest.mark.long)])
def test_any_list_is_read_or_refused(tmp_path: Path, num_lists: int, reliability: Reliability) -> None:
    data = small(row("deep/run/a.avi", 1), row("deep/jump/b c.avi", 0), row("deep/run/o.avi", 1))
    listing = Listing([VideoFile("run/a.avi", ("run",), "a", 3), VideoFile("x.avi", (), "x", 3)])
    rng = random.Random(num_lists)
    readers: dict[str, Callable[[Path], object]] = {
        "list.csv": lambda file: imported(data, file, labels=rng.choice(("ours", "theirs"))),
        "own.csv": lambda file: by_csv(listing, tmp_path, file),
        "k.csv": lambda file: (
            is_kinetics_csv(file) and read_kinetics(rng.choice(("kinetics400", "kinetics700")), [file])
        ),
        "classInd.txt": read_class_index,
        "trainlist01.txt": lambda file: read_ucf101(file.parent),
        "wave_test_split1.txt": lambda file: read_hmdb51(file.parent),
    }
    num_refused = 0
    for _ in range(num_lists):
        content = _changed(rng)
        (tmp_path / "testlist01.txt").write_bytes(content)
        for name, read in readers.items():
            (tmp_path / name).write_bytes(content)
            try:
                read(tmp_path / name)
            except InputError as error:
                num_refused += 1
                assert len(str(error)) < 4000
        (tmp_path / "classInd.txt").unlink()
    num_read = num_lists * len(readers)
    assert num_read * 0.2 < num_refused < num_read * 0.95
    reliability.record(
        "Damage", "lists with random changes, read by each of six readers", num_lists=num_read, num_refused=num_refused
    )
