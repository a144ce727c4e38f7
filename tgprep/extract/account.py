"""The end of an extraction: shards become a data set, which accounts for every input as written, failed or skipped."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from manifests.files import Location, below, remove, remove_tree
from manifests.manifest_io import write_manifest
from manifests.records import FAILED, SKIPPED, WRITTEN, InputError, ManifestHeader, VideoRow
from manifests.table import Manifest
from tgprep.config import ExtractSettings
from tgprep.decode.frames import PLANES_VERSION
from tgprep.decode.open import decoder_versions
from tgprep.encode.jpeg_tables import ENCODER_VERSION
from tgprep.extract.work_folder import remove_leftovers
from tgprep.extract.workers.request import WORK_FOLDER
from tgprep.extract.workers.shards import ShardResult


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the inputs. `num_inputs` is counted independently, so that the sum is a check."""

    num_inputs: int
    num_written: int
    num_failed: int
    num_skipped: int
    num_frames: int
    num_bytes: int
    num_shards: int

    def __post_init__(self) -> None:
        assert self.num_inputs == self.num_written + self.num_failed + self.num_skipped, self


def account_of(manifest: Manifest) -> Account:
    """The account of a finished data set."""
    header = manifest.header
    return Account(
        num_inputs=len(manifest.videos),
        num_written=header.num_written,
        num_failed=header.num_failed,
        num_skipped=header.num_skipped,
        num_frames=sum(manifest.videos.column("num_frames")),
        num_bytes=sum(shard.num_bytes for shard in manifest.shards),
        num_shards=len(manifest.shards),
    )


def versions(settings: ExtractSettings) -> dict[str, str]:
    """Versions of all that decides the bytes; InputError if the decoder is not installed."""
    name = settings.decoder
    try:
        used = decoder_versions(name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        text = " ".join(str(error).split())
        raise InputError(
            f"--decoder {name} cannot be loaded: {type(error).__name__}: {text}. Install it, or put its folder on PYTHONPATH."
        ) from None
    if settings.store == "video":
        from tgprep.encode.h264 import x264_version

        used |= {**decoder_versions("pyav"), "x264": x264_version()}
    if settings.space == "ycbcr420":
        used["planes"] = str(PLANES_VERSION)
    if settings.encoder == "fused":
        used["fused_encoder"] = str(ENCODER_VERSION)
    packages = {name: importlib.metadata.version(name) for name in ("tgprep", "simplejpeg")}
    return {**packages, "pyarrow": pa.__version__, **used}


def finalise(
    out: Location,
    header: ManifestHeader,
    results: Sequence[ShardResult],
    skipped: Sequence[tuple[str, str]] = (),
    base: Manifest | None = None,
) -> Manifest:
    """Join finished shards to a data set: write tables and header, remove the work folder.

    header: without counts. skipped: (path, reason). base: the data set that the shards change.
    """
    rows = [row for result in results for row in result.videos]
    rows += [
        VideoRow(key="", path=path, class_name="", label=-1, group="", subsets=(), status=SKIPPED, error=reason)
        for path, reason in skipped
    ]
    shards = [result.shard for result in results]
    if base is not None:
        new_paths = {row.path for row in rows}
        rows += [row for row in base.videos if row.status != SKIPPED and row.path not in new_paths]
        while shards and not shards[-1].num_videos:  # every video failed again: no empty shard for that
            remove(below(out, shards.pop().name))
        shards = [*base.shards, *shards]
        before = base.header.versions
        versions = {name: _join_versions(before.get(name, ""), now) for name, now in header.versions.items()}
        header = replace(header, versions=versions)
    assert len({row.path for row in rows}) == len(rows), "a video has two rows"
    counts = Counter(row.status for row in rows)
    header = replace(header, num_written=counts[WRITTEN], num_failed=counts[FAILED], num_skipped=counts[SKIPPED])
    manifest = write_manifest(out, header, sorted(rows, key=lambda row: (row.key, row.path)), shards)
    work = below(out, WORK_FOLDER)
    remove_leftovers(out, work)
    remove_tree(work)
    return manifest


def _join_versions(before: str, now: str) -> str:
    return now if not before or now in before.split(", ") else f"{before}, {now}"
