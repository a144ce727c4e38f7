"""Readers of a data set in an object store, and what they must read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from manifests.manifest_io import read_manifest
from manifests.table import Manifest
from tgtrain.data.clip import ClipSettings, plan_eval
from tgtrain.data.reader import ClipReader, open_reader
from tgtrain.data.stores.cache import CacheSettings, Piece
from tgtrain.data.stores.remote import RemoteShards

SETTINGS = ClipSettings(clip_frames=4, interval=3, size=32)
(PLAN,) = plan_eval(20, 48, 64, SETTINGS)
NUM_SHARDS = 6


def open_remote(url: str, cache: Path, num_bytes: int = 10**9) -> ClipReader:
    manifest = read_manifest(url)
    return open_reader(manifest, manifest.videos.column("key"), CacheSettings(str(cache), num_bytes))


def shards_of(reader: ClipReader) -> RemoteShards:
    assert isinstance(reader.shards, RemoteShards)
    return reader.shards


def pixels(reader: ClipReader) -> list[bytes]:
    """All videos, in order."""
    return [reader.read(video, PLAN).rgb.tobytes() for video in range(len(reader.index))]


def expected(local: Path) -> list[bytes]:
    manifest = read_manifest(local)
    return pixels(open_reader(manifest, manifest.videos.column("key")))


def whole_names(manifest: Manifest) -> set[str]:
    return {f"{shard.sha256}.tar" for shard in manifest.shards}


def piece(number: int, size: int = 100) -> Piece:
    return Piece(f"shard-{number:06d}.tar", hashlib.sha256(b"%d" % number).hexdigest(), 0, size, True)
