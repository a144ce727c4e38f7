"""Whether this machine can extract: every decoder, encoder, program and disk is tried; what is wrong, and what to do about it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from manifests import machine
from manifests.gradient import Frame
from manifests.machine import Finding

PACKAGES = {
    "numpy": "",
    "pyarrow": "",
    "simplejpeg": "",
    "cv2": "opencv-python-headless",
    "pydantic": "",
    "joblib": "",
    "numba": "",
}
OPTIONAL = {"distributed": "--engine dask", "s3fs": "data in s3:// stores", "torch": "tgtrain"}
DECODERS = {"pyav": "av", "opencv": "opencv-python-headless", "decord": "decord"}  # the first is the default
DECODER_SECONDS = 60
OPEN_FILES = 1024
SLOW_JPEG_PER_SECOND = 150.0
SMALL_MEMORY_BYTES = 2e9
CLIP = Path(__file__).parent / "doctor_clip.mp4"  # H.264, 64x48; a bright bar 6 pixels wide, at 3k in frame k
CLIP_FRAMES = 20
CLIP_SIZE = (64, 48)
CLIP_LEVELS = 4.0  # two ways to convert to RGB are about 2 levels apart on it, a frame and the next one 12


def examine(folder: Path) -> Iterator[Finding]:
    """All findings, one by one as they come; folder: where the data set is to lie."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _packages,
        _processor,
        _decoders,
        _ffmpeg_program,
        _jpeg,
        _archives,
        _limits,
        lambda: machine.disk(
            folder, 10e9, "`tgprep extract --dry-run` says how much a data set takes.", "tgprep doctor FOLDER"
        ),
    )
    yield from machine.run_checks(checks)


def _packages() -> Iterator[Finding]:
    yield machine.python()
    for package, distribution in PACKAGES.items():
        yield machine.package(package, distribution or package, "", "error")
    for package, what in OPTIONAL.items():
        yield machine.package(package, package, what, "note")


def _processor() -> Iterator[Finding]:
    usable, quota, text = machine.cores()
    over = bool(quota) and quota < usable - 0.5
    advice = (
        f"This container may use {quota:g} cores: `tgprep extract --threads {max(1, round(quota))}`." if over else ""
    )
    yield Finding("processor", "warning" if over else "ok", text, advice)
    memory = machine.memory_bytes()
    good = memory >= SMALL_MEMORY_BYTES
    yield Finding(
        "memory",
        "ok" if good else "warning",
        f"{memory / 1e9:.1f} GB",
        "" if good else "A worker takes about 110 MB for small videos, more for large ones: keep --threads low.",
    )


def _decoders() -> Iterator[Finding]:
    """Each in a process of its own: a library that crashes or hangs is a finding too."""
    for number, (decoder, distribution) in enumerate(DECODERS.items()):
        good, told = _tried(decoder)
        if good:
            yield Finding(decoder, "ok", told)
        else:
            needed = " It is the default decoder." if number == 0 else f" Without it, `--decoder {decoder}` fails."
            advice = f"pip install --force-reinstall {distribution}.{needed}"
            yield Finding(decoder, "note" if number else "error", f"cannot decode: {told}", advice)


def _ffmpeg_program() -> Iterator[Finding]:
    """A second build of FFmpeg, to hold the default decoder against: where both show the same, a strange frame is the file's."""
    good, told = _tried("ffmpeg")
    advice = "pip install --force-reinstall ffmpeg-python imageio-ffmpeg. Only this check needs them."
    yield Finding("ffmpeg program", "ok" if good else "note", told, "" if good else advice)


def _tried(decoder: str) -> tuple[bool, str]:
    """Whether a decoder gives the frames of the enclosed clip, and what it says."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "tgprep.doctor", decoder]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=DECODER_SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"no answer in {DECODER_SECONDS} s"
    told = (done.stdout or done.stderr).strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
    if done.returncode:
        return False, told
    return True, f"{told} ({time.perf_counter() - began:.1f} s with its start)"


def decode_clip(decoder: str) -> str:
    """Decode the enclosed clip and look whether all frames come, in order; gives what decoded, or raises."""
    from tgprep.decode.frames import Picture
    from tgprep.decode.open import decoder_versions, open_video

    frames: Iterator[Picture] = _packed_frames() if decoder == "ffmpeg" else iter(())
    if decoder != "ffmpeg":
        frames = open_video(CLIP, decoder=decoder, space="rgb", short_side=0).frames
    places = []
    for frame in frames:
        assert isinstance(frame, np.ndarray)
        places.append(int(frame[:, :, 0].mean(axis=0).argmax()))
    wrong = [k for k, place in enumerate(places) if not 3 * k - 1 <= place <= 3 * k + 6]
    if len(places) != CLIP_FRAMES or wrong:
        raise ValueError(
            f"{len(places)} of {CLIP_FRAMES} frames" + (f", wrong from frame {wrong[0]} on" if wrong else "")
        )
    if decoder == "ffmpeg":
        return _compared()
    versions = ", ".join(f"{name} {version}" for name, version in decoder_versions(decoder).items())
    return f"decodes H.264, every frame in order; {versions}"


def _packed_frames() -> Iterator[Frame]:
    """The clip's frames, as the ffmpeg program of imageio-ffmpeg decodes them."""
    import ffmpeg
    import imageio_ffmpeg

    stream = ffmpeg.input(str(CLIP)).output("pipe:", format="rawvideo", pix_fmt="rgb24")
    packed, _ = stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    width, height = CLIP_SIZE
    yield from np.frombuffer(packed, np.uint8).reshape(-1, height, width, 3)


def _compared() -> str:
    """What the program is, and that the default decoder shows what it shows; ValueError where it does not."""
    import imageio_ffmpeg

    from tgprep.decode.open import open_video

    ours = open_video(CLIP, decoder="pyav", space="rgb", short_side=0).frames
    apart = max(float(np.abs(np.asarray(a, np.int16) - b).mean()) for a, b in zip(ours, _packed_frames(), strict=True))
    version = imageio_ffmpeg.get_ffmpeg_version()
    if apart > CLIP_LEVELS:
        raise ValueError(f"ffmpeg {version} and PyAV show different pixels: {apart:.1f} levels apart")
    return f"shows what PyAV shows; ffmpeg {version}"


def _jpeg() -> Iterator[Finding]:
    """JPEG encoding, half of the work of an extraction: tried, and timed."""
    simplejpeg = importlib.import_module("simplejpeg")
    rows, columns = np.mgrid[0:240, 0:320]
    picture = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        jpeg = simplejpeg.encode_jpeg(picture, 95, "RGB", "420")
        count += 1
    rate = count / (time.perf_counter() - began)
    wrong = float(np.abs(simplejpeg.decode_jpeg(jpeg, "RGB").astype(int) - picture).mean())
    text = f"encodes {rate:.0f} pictures of 320x240 a second and core"
    if wrong > 8:
        yield Finding(
            "jpeg", "error", f"encodes wrongly (by {wrong:.0f} levels)", "pip install --force-reinstall simplejpeg"
        )
    elif rate < SLOW_JPEG_PER_SECOND:
        yield Finding("jpeg", "warning", text, "The machine is busy or throttled.")
    else:
        yield Finding("jpeg", "ok", text)


def _archives() -> Iterator[Finding]:
    program = next((name for name in ("unar", "bsdtar") if shutil.which(name)), None)
    if program:
        yield Finding("rar archives", "ok", f"{program} unpacks them")
    else:
        yield Finding(
            "rar archives",
            "note",
            "no program here unpacks them",
            "Only `tgprep download ucf101` and `hmdb51` need one: apt-get install unar, or libarchive-tools; brew install unar.",
        )


def _limits() -> Iterator[Finding]:
    yield machine.open_files(OPEN_FILES, "Every worker holds a few")


if __name__ == "__main__":
    try:
        print(decode_clip(sys.argv[1]))
    except Exception as error:  # whatever a library raises is the answer
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)
