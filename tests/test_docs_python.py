"""docs/python.md: its blocks run in their order, on videos that are extracted by the first."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cli.prep import main
from tests.prep.support import moving_square, write_video

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore")  # of the other libraries
def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers", reason="comes with the extra `vit`")
    from accelerate.state import AcceleratorState

    monkeypatch.chdir(tmp_path)
    for number in range(12):
        frames = moving_square(20, start=9 * number)
        write_video(Path("videos", f"class{number % 3}", f"v_g{number:02d}_c01.avi"), frames)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    for language, block in BLOCKS:
        if language == "bash":
            for line in block.splitlines():
                done = CliRunner().invoke(main, shlex.split(line)[1:], catch_exceptions=False)
                assert done.exit_code == 0, done.output
        else:
            exec(compile(block, "docs/python.md", "exec"), names)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert len(BLOCKS) == 7
    printed = capsys.readouterr().out
    assert printed.startswith("12 0 0 ()\n")
    state = torch.load("checkpoint.pt")["streams"]
    assert f"\n{state['step']}\n" in printed
    assert names["streams"].step == 2  # type: ignore[attr-defined]
    trainer = names["trainer"]
    assert trainer.state.epoch == 2  # type: ignore[attr-defined]
    assert names["train"].epoch == 1  # type: ignore[attr-defined]
    assert trainer.state.global_step == 2 * -(-len(names["train"]) // 4)  # type: ignore[attr-defined, arg-type]


def test_the_page_names_every_argument() -> None:
    """Of `open_dataset`: the page shows it, or says in a table what it is for."""
    import inspect

    from tgtrain import open_dataset

    for name in inspect.signature(open_dataset).parameters:
        if name not in ("flip", "area"):
            assert re.search(rf"\b{name}\b", PAGE), name
