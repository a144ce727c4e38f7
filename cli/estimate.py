"""`tgprep extract --dry-run`: what an extraction would take."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import click

from cli.common import human_bytes, human_seconds, print_json

if TYPE_CHECKING:
    from manifests.places import Place
    from tgprep.config import ExtractSettings, RunSettings
    from tgprep.scan import Scan


def show_estimate(
    videos: Place,
    out: Place,
    found: Scan,
    settings: ExtractSettings,
    run: RunSettings,
    stop: threading.Event,
    as_json: bool,
) -> None:
    """Print the estimate on stdout: it is the result that was asked for. Raises StoppedError once `stop` is set."""
    from tgprep.estimate import estimate

    told = estimate(videos, out, found, settings, run, stop)
    if as_json:
        print_json(dataclasses.asdict(told))
        return
    workers = f"{told.num_workers} worker process" + ("es" if told.num_workers > 1 else "")
    free = f", free are {human_bytes(told.num_free_bytes)}" if told.num_free_bytes >= 0 else ""
    rows = {
        "videos": f"{told.num_videos}, {human_bytes(told.num_source_bytes)}",
        "frames": f"about {told.num_frames} (headers of {told.num_headers} videos)",
        "time": f"about {human_seconds(told.seconds)} with {workers} (measured on {told.num_measured} videos)",
        "disk": f"about {human_bytes(told.num_bytes)}{free}",
        "files": f"{told.num_shards} shards and 3 tables; one JPEG a frame would be {told.num_loose_files} files",
    }
    for name, value in rows.items():
        click.echo(f"{name:<8}{value}")
    if told.num_unreadable:
        click.echo(f"{told.num_unreadable} of the videos looked at cannot be read and would fail")
    if 0 <= told.num_free_bytes < told.num_bytes:
        click.echo(
            f"The disk of {out} is too small: make room, or use --short-side, "
            + (
                "a higher --crf"
                if settings.store == "video"
                else "a lower --quality, --gradient derived or --store video"
            )
        )
