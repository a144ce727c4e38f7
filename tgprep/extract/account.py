"""The account of an extraction: every input is written, failed or skipped, and the finished data set says so."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from manifests.files import Location, below, remove
from manifests.manifest_io import write_manifest
from manifests.records import FAILED, SKIPPED, WRITTEN, InputError, ManifestHeader, VideoRow
from manifests.table import Manifest
from tgprep.config import ExtractSettings
from tgprep.decode.frames import PLANES_VERSION
from tgprep.decode.open import decoder_versions
from tgprep.encode.jpeg_tables import ENCODER_VERSION
from tgprep.extract.plan import Plan
from tgprep.extract.workers.shards import ShardResult


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the inputs; `num_inputs` is counted on its own, so that the sum proves something."""

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
    """Versions of what makes the bytes; InputError where the decoder is not installed or is not there."""
    name = settings.decoder
    try:
        decoder = decoder_versions(name)
    except (Exception, SystemExit) as error:  # a module of the user's may fail in any way
        text = " ".join(str(error).split())
        raise InputError(
            f"--decoder {name} cannot be loaded: {type(error).__name__}: {text}. Install it, or put its folder on PYTHONPATH."
        ) from None
    if settings.store == "video":
        from tgprep.encode.h264 import x264_version

        decoder = {**decoder, **decoder_versions("pyav"), "x264": x264_version()}
    if settings.space == "ycbcr420":
        decoder["planes"] = str(PLANES_VERSION)
    if settings.encoder == "fused":
        decoder["fused_encoder"] = str(ENCODER_VERSION)
    return {name: importlib.metadata.version(name) for name in ("tgprep", "simplejpeg")} | {
        "pyarrow": pa.__version__,
        **decoder,
    }


def finalise(out: Location, plan: Plan, results: Sequence[ShardResult], base: Manifest | None) -> Manifest:
    """Write tables and header of the finished data set; base: the data set that the plan changes, if it does."""
    rows = [row for result in results for row in result.videos]
    assert len(rows) == len(plan.videos), f"{len(rows)} rows for {len(plan.videos)} videos"
    rows += [
        VideoRow(key="", path=path, class_name="", label=-1, group="", subsets=(), status=SKIPPED, error=reason)
        for path, reason in plan.skipped
    ]
    shards = [result.shard for result in results]
    used = plan.versions
    if base is not None:
        replaced = {row.path for row in rows}
        rows += [row for row in base.videos if row.status != SKIPPED and row.path not in replaced]
        while shards and not shards[-1].num_videos:  # every video failed again: no empty shard for that
            remove(below(out, shards.pop().name))
        shards = [*base.shards, *shards]
        before = base.header.versions
        used = {name: _both(before.get(name, ""), version) for name, version in plan.versions.items()}
    assert len({row.path for row in rows}) == len(rows), "a video has two rows"
    counts = {status: sum(row.status == status for row in rows) for status in (WRITTEN, FAILED, SKIPPED)}
    header = ManifestHeader(
        dataset=plan.dataset,
        classes=plan.classes,
        gradient=plan.settings.coding,
        settings=plan.settings.model_dump(),
        versions=used,
        num_folds=plan.num_folds,
        num_written=counts[WRITTEN],
        num_failed=counts[FAILED],
        num_skipped=counts[SKIPPED],
    )
    return write_manifest(out, header, sorted(rows, key=lambda row: (row.key, row.path)), shards)


def _both(before: str, now: str) -> str:
    return now if not before or now in before.split(", ") else f"{before}, {now}"


def failures(results: Sequence[ShardResult]) -> int:
    """Failed videos of the given shards."""
    return sum(row.status == FAILED for result in results for row in result.videos)
