"""What `tgprep drop` and `tgprep relabel` print of a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.common import say

if TYPE_CHECKING:
    from tgprep.edit.change import Changed


def change_facts(out: str, changed: Changed, dry_run: bool) -> dict[str, Any]:
    """The fields of --json that both commands have."""
    header = changed.manifest.header
    return {
        "path": out,
        "dry_run": dry_run,
        "num_changed": changed.num_changed,
        "num_same": changed.num_same,
        "num_videos": len(changed.manifest.videos),
        "num_written": header.num_written,
        "num_failed": header.num_failed,
        "num_skipped": header.num_skipped,
        "num_without_label": changed.manifest.videos.num_without_label,
        "num_classes": len(header.classes),
        "digest": changed.manifest.digest,
        "splits": list(changed.splits),
    }


def say_what_follows(out: str, changed: Changed, dry_run: bool) -> None:
    """Say what becomes of splits and other readers, and what to do next."""
    if dry_run:
        say("Nothing was written (--dry-run).")
    elif changed.num_changed:
        say("Shards keep their bytes: readers of tars alone see what they held before (docs/editing.md)")
        if changed.splits:
            say(
                f"splits of another state of the data set are refused: {', '.join(changed.splits[:10])}{', …' * (len(changed.splits) > 10)}. "
                f"Make them again, with --overwrite"
            )
        say(f"Next: tgprep split {out} --percent 20")
