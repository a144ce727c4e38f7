"""Open a video file with a named decoder: frames in display order, one decoder thread, nothing trusted from the header."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from manifests.records import MAX_FPS
from tgprep.decode.frames import DecodedVideo, DecodeError, Picture, Planes, scaled_size

if TYPE_CHECKING:
    from manifests.gradient import Frame
    from tgprep.decode.planes import Orientation
    from tgprep.decode.pyav import FirstLook

_MAX_INT32 = (1 << 31) - 1


def open_video(path: Path, *, decoder: str, space: str, short_side: int, as_coded: bool = False) -> DecodedVideo:
    """Open a video with a built-in decoder, or one named `package.module:function`; DecodeError says why it cannot be read.

    space: "ycbcr420" asks the default decoder for `Planes`, "rgb" for arrays; other decoders give what they have.
    as_coded: leave the range and chroma position of planes as the video has them; else they are as in JPEG files.
    A name that a file holds goes through `tgprep.config.decoder_of` first: a custom decoder is code of the user's choice.
    """
    refuse_no_file(path)
    if decoder == "pyav":
        from tgprep.decode.pyav import open_pyav

        video = open_pyav(path, space=space, short_side=short_side, as_coded=as_coded)
    elif decoder in ("opencv", "decord"):
        video = _open_by_name(path, decoder)
    else:
        video = open_custom(path, decoder)
    forget_impossible(video)
    if decoder != "pyav":
        video.frames = (adapted(frame, short_side, as_coded) for frame in video.frames)
    return video


def refuse_no_file(path: Path) -> None:
    """DecodeError if there is no file with content."""
    if not path.is_file():
        raise DecodeError("the file is gone" if not path.exists() else "not a regular file")
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)")


def open_custom(path: Path, decoder: str) -> DecodedVideo:
    """Open a file with a decoder of the user's. DecodeError if its facts are of other types."""
    module, _, function = decoder.partition(":")
    video: DecodedVideo = getattr(importlib.import_module(module), function)(path)
    facts = video.codec, video.num_frames_header, video.fps
    if not (isinstance(facts[0], str) and isinstance(facts[1], int) and isinstance(facts[2], int | float)):
        raise DecodeError(f"{decoder}: codec, num_frames_header, fps are {facts}; expected text, integer, number")
    return video


def forget_impossible(video: DecodedVideo) -> None:
    """A header may claim anything: what no table holds becomes unknown."""
    if not -1 <= video.num_frames_header <= _MAX_INT32:
        video.num_frames_header = -1
    if not 0 <= video.fps <= MAX_FPS:
        video.fps = 0.0


def decoder_versions(decoder: str) -> dict[str, str]:
    """Names and versions of the libraries that decode, for dataset.json. ImportError if a custom decoder is not there."""
    module_name, colon, function = decoder.partition(":")
    module = importlib.import_module({"pyav": "av", "opencv": "cv2"}.get(module_name, module_name))
    if colon and not callable(getattr(module, function, None)):
        raise ImportError(f"{module_name} has no function {function or 'named behind the colon'}")
    versions = {module.__name__: str(getattr(module, "__version__", ""))}
    if decoder == "pyav":
        libraries: dict[str, tuple[int, ...]] = module.library_versions
        versions |= {name: ".".join(map(str, libraries.get(name, ()))) for name in ("libavcodec", "libswscale")}
    return versions


def adapted(frame: Picture, short_side: int, as_coded: bool) -> Picture:
    """Scale a frame, or convert planes, for a decoder that knows no settings."""
    if isinstance(frame, Planes):
        from tgprep.decode.planes import to_jpeg_form

        if short_side:
            raise DecodeError("--short-side scales RGB frames only, and this decoder gives planes")
        return frame if as_coded else to_jpeg_form(frame)
    if (size := scaled_size(frame.shape[1], frame.shape[0], short_side)) == (frame.shape[1], frame.shape[0]):
        return frame
    import cv2

    return cast(Picture, cv2.resize(frame, size))


def _open_by_name(path: Path, decoder: str) -> DecodedVideo:
    """Open a file with a library that takes names only, and knows neither what PyAV refuses nor mirrored pictures."""
    importlib.import_module("cv2" if decoder == "opencv" else "decord")  # if it is missing, it is named and not PyAV
    from tgprep.decode.pyav import look_at

    look = look_at(path)
    # The name of a descriptor is never a URL or a pattern, whatever the file is called.
    with path.open("rb") as file:
        name = f"/dev/fd/{file.fileno()}"
        video = _all_of_opencv(name, look.orientation) if decoder == "opencv" else _all_of_decord(name, look)
    video.rotation_degrees = look.video.rotation_degrees
    video.notes += look.video.notes
    return video


def open_opencv(name: str) -> tuple[Any, DecodedVideo]:
    """Open a file with cv2.VideoCapture (FFmpeg), one thread, without a report of damage."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise DecodeError("OpenCV cannot open it as a video")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it turns pictures, but mirrors none
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    header = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return capture, DecodedVideo(
        frames=iter(()),
        num_frames_header=header if header > 0 else -1,
        fps=float(capture.get(cv2.CAP_PROP_FPS)),
        codec=code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ") if code > 0 else "",
        close=capture.release,
    )


def _all_of_opencv(name: str, orientation: Orientation) -> DecodedVideo:
    capture, video = open_opencv(name)

    def frames() -> Iterator[Picture]:
        while (read := capture.read())[0]:
            yield rgb_of_opencv(read[1], orientation)

    video.frames = frames()
    return video


def rgb_of_opencv(frame: Any, orientation: Orientation) -> Frame:
    """A frame of OpenCV, upright."""
    import cv2

    return np.ascontiguousarray(orientation.apply(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))


def open_decord(name: str) -> tuple[Any, DecodedVideo]:
    """Open a file with decord.VideoReader, one thread, without a report of damage.

    decord is known to hang on files whose header claims too many frames, and to give different pixels now and then on HMDB51.
    Frames are requested one by one in order, so that a worker that stops delivering is killed by its supervisor.
    """
    import decord

    try:
        reader = decord.VideoReader(name, num_threads=1)
    except (RuntimeError, decord.DECORDError):
        raise DecodeError("decord cannot open it as a video") from None
    return reader, DecodedVideo(iter(()), num_frames_header=len(reader), fps=float(reader.get_avg_fps()))


def _all_of_decord(name: str, look: FirstLook) -> DecodedVideo:
    import decord

    reader, video = open_decord(name)

    def frames() -> Iterator[Picture]:
        turns: int | None = None
        for _ in range(len(reader)):
            try:
                frame = reader.next().asnumpy()
            except (StopIteration, RuntimeError, decord.DECORDError):
                return
            turns = turns_of_decord(frame, look) if turns is None else turns
            yield rgb_of_decord(frame, look, turns)

    video.frames = frames()
    return video


def rgb_of_decord(frame: Frame, look: FirstLook, turns: int) -> Frame:
    """A frame of decord, upright. turns: `turns_of_decord` of its first one."""
    if not (look.orientation.quarter_turns or look.orientation.mirrored):
        return frame
    return np.ascontiguousarray(look.orientation.apply(np.rot90(frame, -turns)))


def turns_of_decord(frame: Frame, look: FirstLook) -> int:
    """By how many quarters decord has turned its first picture: it mirrors none, and knows the container's matrix alone."""
    if not (look.orientation.quarter_turns or look.orientation.mirrored):
        return 0
    of_container = {90: 3, 180: 2, 270: 1}.get(int((0.9 - look.degrees) % 360 - 0.9), 0)

    def error(turns: int) -> float:
        luma = look.orientation.apply(np.rot90(frame, -turns)).mean(axis=2)
        if look.luma is None or luma.shape != look.luma.shape:
            return math.inf
        return float(np.abs(luma - look.luma).mean())

    return min((of_container, 0), key=error)
