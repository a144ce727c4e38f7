"""Checks of `tgprep doctor`: every decoder, encoder, program and disk that extraction needs is tried on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from manifests import machine
from manifests.gradient import Frame
from manifests.machine import Finding, Level, judge

PACKAGES = {name: name for name in ("numpy", "pyarrow", "simplejpeg", "cv2", "pydantic", "joblib", "numba")}
PACKAGES["cv2"] = "opencv-python-headless"
OPTIONAL = {"distributed": "--engine dask", "s3fs": "data in s3:// stores", "torch": "tgtrain"}
# The ffmpeg program is another build of FFmpeg: if it shows what PyAV shows, a strange frame comes from the file.
DECODERS: dict[str, tuple[str, Level, str]] = {
    "pyav": ("av", "error", "It is the default decoder."),
    "opencv": ("opencv-python-headless", "note", "Without it, `--decoder opencv` fails."),
    "decord": ("decord", "note", "Without it, `--decoder decord` fails."),
    "ffmpeg program": ("ffmpeg-python imageio-ffmpeg", "note", "Only this check needs them."),
}
DECODER_SECONDS = 60
OPEN_FILES = 1024
SLOW_JPEG_PER_SECOND = 150.0
CLIP = Path(__file__).parent / "doctor_clip.mp4"  # H.264, 64x48; a bright bar 6 pixels wide, at 3k in frame k
CLIP_FRAMES = 20
CLIP_LEVELS = 4.0  # two ways to convert to RGB differ by about 2 levels on it, a frame and the next one by 12


def examine(folder: Path) -> Iterator[Finding]:
    """Yield all findings as they come. folder: where the data set will be."""
    yield from machine.run_checks(
        {
            "packages": lambda: machine.check_packages(PACKAGES, OPTIONAL),
            "processor": lambda: machine.check_processor(
                2e9,
                "A worker takes about 110 MB for small videos, more for large ones: keep --threads low.",
            ),
            "decoders": _decoders,
            "jpeg": lambda: machine.check_jpeg("encodes", SLOW_JPEG_PER_SECOND),
            "archives": _archives,
            "limits": lambda: machine.check_open_files(OPEN_FILES, "Every worker holds a few"),
            "disk": lambda: machine.check_disk(
                folder, 10e9, "`tgprep extract --dry-run` says how much a data set takes.", "tgprep doctor FOLDER"
            ),
        }
    )


def _decoders() -> Iterator[Finding]:
    """Let each decoder decode the enclosed clip, in a separate process, as a library may crash or hang."""
    for name, (packages, level, use) in DECODERS.items():
        began = time.perf_counter()
        command = [sys.executable, "-m", "tgprep.doctor", name.split()[0]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DECODER_SECONDS)
        except subprocess.TimeoutExpired:
            good, text = False, f"no answer in {DECODER_SECONDS} s"
        else:
            good = not done.returncode
            text = (done.stdout or done.stderr).strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
        text = f"{text} ({time.perf_counter() - began:.1f} s with its start)" if good else f"fails: {text}"
        yield judge(name, good, text, f"pip install --force-reinstall {packages}. {use}", level)


def decode_clip(decoder: str) -> str:
    """Decode the enclosed clip and check that all frames come in order; return what decoded, or raise."""
    from tgprep.decode.open import decoder_versions, open_video

    def open_clip(decoder: str) -> list[Frame]:
        return [np.asarray(f) for f in open_video(CLIP, decoder=decoder, space="rgb", short_side=0).frames]

    # All frames, by the place of a bar: it is brightest in its six columns, which move 3 pixels a frame.
    frames = _frames_of_program() if decoder == "ffmpeg" else open_clip(decoder)
    columns = [int(frame[:, :, 0].mean(axis=0).argmax()) for frame in frames]
    wrong = [k for k, column in enumerate(columns) if not 3 * k - 1 <= column <= 3 * k + 6]
    if len(frames) != CLIP_FRAMES or wrong:
        raise ValueError(
            f"{len(frames)} of {CLIP_FRAMES} frames" + (f", wrong from frame {wrong[0]} on" if wrong else "")
        )
    if decoder != "ffmpeg":
        versions = ", ".join(f"{name} {version}" for name, version in decoder_versions(decoder).items())
        return f"decodes H.264, every frame in order; {versions}"

    import imageio_ffmpeg

    # The same pixels as PyAV, up to rounding.
    pairs = zip(open_clip("pyav"), frames, strict=True)
    difference = max(float(np.abs(np.asarray(ours, np.int16) - theirs).mean()) for ours, theirs in pairs)
    version = imageio_ffmpeg.get_ffmpeg_version()
    if difference > CLIP_LEVELS:
        raise ValueError(f"ffmpeg {version} and PyAV show different pixels: {difference:.1f} levels apart")
    return f"shows what PyAV shows; ffmpeg {version}"


def _frames_of_program() -> list[Frame]:
    """The clip's frames, decoded by the ffmpeg program of imageio-ffmpeg."""
    import ffmpeg
    import imageio_ffmpeg

    stream = ffmpeg.input(f"file:{CLIP}").output("pipe:", format="rawvideo", pix_fmt="rgb24")
    packed, _ = stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    return list(np.frombuffer(packed, np.uint8).reshape(-1, 48, 64, 3))


def _archives() -> Iterator[Finding]:
    program = next((name for name in ("unar", "bsdtar") if shutil.which(name)), None)
    text = f"{program} unpacks them" if program else "no program here unpacks them"
    advice = "Only `tgprep download ucf101` and `hmdb51` need one: apt-get install unar, or libarchive-tools; brew install unar."
    yield judge("rar archives", program is not None, text, advice, "note")


if __name__ == "__main__":
    try:
        print(decode_clip(sys.argv[1]))
    except Exception as error:  # any error of a library is the answer
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)
