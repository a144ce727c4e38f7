"""Decode videos to frames. What this package exports is the interface of `--decoder package.module:function`."""

from tgprep.decode.frames import DecodedVideo, DecodeError, Picture, Planes

__all__ = ["DecodeError", "DecodedVideo", "Picture", "Planes"]
