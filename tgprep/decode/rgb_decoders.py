"""Decoders beside PyAV, for comparison: OpenCV and decord 0.6. They give RGB frames only and do not report damage.

decord is known to hang on files whose header claims too many frames, and to give different pixels now and then on HMDB51.
Frames are requested one by one in order, so that a worker that stops delivering is killed by its supervisor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture


def open_opencv(path: Path) -> DecodedVideo:
    """Open a file with cv2.VideoCapture (FFmpeg), one thread. OpenCV itself applies the rotation."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise DecodeError("OpenCV cannot open it as a video")
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    header = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def frames() -> Iterator[Picture]:
        while True:
            ok, bgr = capture.read()
            if not ok:
                return
            yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[misc]

    return DecodedVideo(
        frames=frames(),
        num_frames_header=header if header > 0 else -1,
        fps=float(capture.get(cv2.CAP_PROP_FPS)),
        codec=code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ") if code > 0 else "",
        rotation_degrees=int(capture.get(cv2.CAP_PROP_ORIENTATION_META)),
        close=capture.release,
    )


def open_decord(path: Path) -> DecodedVideo:
    """Open a file with decord.VideoReader, one thread."""
    import decord

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
    except (RuntimeError, decord.DECORDError) as error:
        raise DecodeError(f"decord cannot open it: {str(error).splitlines()[0]}") from None

    def frames() -> Iterator[Picture]:
        for _ in range(len(reader)):
            try:
                yield reader.next().asnumpy()
            except (StopIteration, RuntimeError, decord.DECORDError):
                return

    return DecodedVideo(frames=frames(), num_frames_header=len(reader), fps=float(reader.get_avg_fps()))
