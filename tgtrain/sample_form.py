"""Whether the bytes of one sample have the form that the manifest says: all that can be known of a sample that came without its shard.

The manifest's sha256 is of whole shards. Of a sample alone the tar headers, the indices, and that a JPEG file begins at every
offset can be checked; what lies between shows when it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable

from manifests.sample import BLOCK_BYTES, decode_offsets, frame_members, member_header
from tgtrain.places import VideoPlace

_JPEG_BEGIN = b"\xff\xd8"


def sample_fault(place: VideoPlace, read: Callable[[int, int], bytes], *, mp4: bool) -> str:
    """What is wrong with the members of a sample; "" where nothing is.

    read: gives the bytes of (offset in the shard, size). mp4: the data set holds stored videos.
    """
    for kind in ("rgb", "tg", "flow"):
        index_offset, index_bytes, offset, num_bytes = place.members.place(kind)
        if offset < 0:
            continue
        is_video = mp4 and kind == "rgb"
        index_name, name = frame_members(kind, is_video)
        for member, start, size in ((index_name, index_offset, index_bytes), (name, offset, num_bytes)):
            if read(start - BLOCK_BYTES, BLOCK_BYTES) != member_header(f"{place.key}.{member}", size):
                return f"the tar header of its {member} is not the one of the manifest"
        try:
            offsets = decode_offsets(read(index_offset, index_bytes), mp4=is_video)
        except ValueError as error:
            return f"{index_name}: {error}"
        num_frames = place.num_frames - (kind != "rgb")
        if len(offsets) != num_frames + 1 or offsets[-1] > num_bytes or (offsets[-1] < num_bytes and not is_video):
            return f"{index_name} names {len(offsets) - 1} frames, expected {num_frames} that end at byte {num_bytes}"
        for frame, start in enumerate(() if is_video else offsets[:-1].tolist()):
            if read(offset + start, 2) != _JPEG_BEGIN:
                return f"{kind.upper()} frame {frame} does not begin as a JPEG file"
    return ""
