"""Full disks under every command that writes: one message, nothing half-written, and the command again finishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability import Reliability
from tests.writers import WRITERS, files_in, fill, leftovers, small_disk, used_bytes

GATE = ("split", "add", "card")


def tried(name: str, base: Path, tmp_path: Path, levels: tuple[float, ...]) -> None:
    """Run a command on a disk that is full at the start, or after a share of what it writes, and again with room."""
    writer = WRITERS[name]
    with small_disk(tmp_path / "whole") as place:
        writer.prepare(place, base)
        before = used_bytes(place)
        code, text = writer.run(place, base)
        assert code == 0, text
        wanted, num_bytes = files_in(place), max(4096, used_bytes(place) - before)
    for number, level in enumerate(levels):
        with small_disk(tmp_path / f"disk{number}") as place:
            writer.prepare(place, base)
            before_files = files_in(place)
            filler = fill(place, int(num_bytes * level) // 4096 * 4096)
            code, text = writer.run(place, base)
            filler.unlink()
            # The process ends with one message that names the trouble, and nothing looks like a result that is none.
            assert code in (1, 2), (level, text)
            assert "Traceback" not in text
            assert any(word in text for word in ("No space left", "are free", "bytes are free")), text
            assert text.count("Error: ") + text.count("not repaired") >= 1
            assert not leftovers(place)
            for path, digest in files_in(place).items():
                assert ".tgprep/" in path or digest in (wanted.get(path), before_files.get(path)), (level, path)
            code, text = writer.run(place, base)
            assert code == 0, text
            assert files_in(place) == wanted


@pytest.mark.parametrize("name", GATE)
def test_a_full_disk_ends_in_one_message(name: str, inputs: Path, tmp_path: Path) -> None:
    tried(name, inputs, tmp_path, (0.5,))


@pytest.mark.long
@pytest.mark.parametrize("name", WRITERS)
def test_full_disks_at_several_levels(
    name: str, inputs_with_runs: Path, tmp_path: Path, reliability: Reliability
) -> None:
    levels = (0.0, 0.02, 0.5, 0.95)
    tried(name, inputs_with_runs, tmp_path, levels)
    reliability.record(
        "Disks",
        "every command that writes, on a disk that is full at the start or later; then again with room",
        num_commands=1,
        num_full_disks=len(levels),
        differing_files=0,
        num_leftovers=0,
    )
