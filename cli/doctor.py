"""The page that both doctors print."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict

import click

from cli.common import EXIT_FAILURES, print_json
from manifests.machine import Finding

_MARKS = {"ok": "ok", "note": "-", "warning": "!", "error": "WRONG"}


def tell(findings: Iterator[Finding], can: str, as_json: bool) -> None:
    """Print findings as they come and end the program: exit code 1 where one stops the work. can: `train` or the like."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            click.echo(f"{_MARKS[finding.level]:<5}  {finding.name:<13}  {finding.text}")
            if finding.advice:
                click.echo(f"{'':<22}-> {finding.advice}")
    wrong = [finding for finding in found if finding.level == "error"]
    warned = [finding for finding in found if finding.level == "warning"]
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in found]})
    elif wrong:
        click.echo(f"\nWrong: {', '.join(finding.name for finding in wrong)}.")
    else:
        better = f" Could be better: {', '.join(finding.name for finding in warned)}." if warned else ""
        click.echo(f"\nThis machine can {can}.{better}")
    sys.exit(EXIT_FAILURES if wrong else 0)
