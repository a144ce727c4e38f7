"""Near-copies: found whatever was done to them, never two clips of one scene, and left out of a split on request."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_manifest
from manifests.splits.label_split import read_split
from tgprep.duplicates.pairs import read_pairs

COPIES = {
    "crop": ["-vf", "hflip,crop=iw*0.9:ih*0.9:iw*0.02:ih*0.06", "-c:v", "libx264", "-crf", "28"],
    "cut": ["-ss", "0.5", "-vf", "scale=160:120", "-c:v", "mpeg4", "-q:v", "6"],
}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_copies_of_real_clips_are_found_and_dropped(shared: Path, tmp_path: Path) -> None:
    clips = (shared / "ucf101_3class/UCF-101/Punch").resolve()
    videos, pool = tmp_path / "videos", tmp_path / "pool"
    (videos / "Punch").mkdir(parents=True)
    pool.mkdir()
    for group in ("g01", "g02"):
        for clip in sorted(clips.glob(f"*_{group}_*"))[:2]:  # two clips of one scene
            (videos / "Punch" / clip.name).symlink_to(clip)
    source = next(iter(sorted(videos.rglob("*_g01_*"))))
    for kind, how in COPIES.items():
        start = how[:2] if how[0] == "-ss" else []
        program = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *start, "-i", str(source), "-an", *how[len(start) :]]
        subprocess.run([*program, str(pool / f"{kind}.mp4")], check=True)
    out = tmp_path / "out"
    run(
        "extract",
        videos,
        out,
        "--dataset",
        "folder",
        "--unlabelled",
        pool,
        "--short-side",
        120,
        "--gradient",
        "derived",
        "--threads",
        1,
    )
    with pytest.raises(AssertionError, match=r"First: tgprep check .* --duplicates"):
        run("split", out, "--percent", 50, "--test-percent", 50, "--drop-duplicates")
    facts = json.loads(run("check", out, "--duplicates", "--json"))
    key = f"Punch/{source.stem}"
    assert {(pair["first"], pair["second"]) for pair in facts["pairs"]} == {
        (key, "unlabelled/crop"), (key, "unlabelled/cut"), ("unlabelled/crop", "unlabelled/cut")
    }  # fmt: skip
    assert facts["num_superfluous"] == 2
    whole = json.loads(run("split", out, "--percent", 50, "--test-percent", 50, "--json"))
    assert sum(whole["duplicates"].values()) == 3
    kept = json.loads(
        run("split", out, "--percent", 50, "--test-percent", 50, "--drop-duplicates", "--name", "kept", "--json")
    )
    assert kept["num_without_label"] == 0
    assert sum(kept["duplicates"].values()) == 0
    assert read_split(out, "kept").provenance["dropped_duplicates"] == "2"
    # A page marks both videos of a pair; another state of the data set has no pairs.
    run("preview", out, "--output", tmp_path / "page.html")
    assert "near-copy of unlabelled/crop" in (tmp_path / "page.html").read_text()
    assert read_pairs(read_manifest(out)) is not None
    content = (out / "duplicates.parquet").read_bytes()
    (out / "duplicates.parquet").write_bytes(content[:-20] + b"!" + content[-19:])
    assert read_pairs(read_manifest(out)) is None
