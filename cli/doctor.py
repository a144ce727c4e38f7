"""`tgprep doctor` and `tgtrain doctor`: what is wrong with this machine, and what to do."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from cli.common import EXIT_FAILURES, echo, handled, print_json, quiet_threads
from cli.terminal import print_styled
from manifests.machine import Finding

# Levels: the mark at the left, and its colour.
_MARKS = {"ok": ("ok", "green"), "note": ("-", "dim"), "warning": ("!", "yellow"), "error": ("WRONG", "bold red")}
_INDENT = 22  # columns left of the texts


def doctor_command(module: str, work: str, description: str) -> click.Command:
    """The command `doctor`, which prints what `module.examine(FOLDER)` finds. work: what the machine is to do, as a verb."""

    @click.command(
        "doctor", help=f"{description}\n\nPrints what is wrong and what to do. Exit code 1 if an error stops it."
    )
    @click.argument("folder", default=".", type=click.Path(path_type=Path))
    @click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout")
    @handled
    def doctor(folder: Path, as_json: bool) -> None:
        from manifests.records import InputError

        quiet_threads()
        try:
            examine = importlib.import_module(module).examine
        except ModuleNotFoundError as error:
            raise InputError(f"{work.capitalize()}ing needs {error.name}: pip install 'tgprep[train]'.") from None
        print_findings(examine(folder.absolute()), work, as_json)

    return doctor


def print_findings(findings: Iterator[Finding], can: str, as_json: bool) -> None:
    """Print findings as they come and exit, with code 1 if one is an error. can: `train` or the like."""
    done = []
    for finding in findings:
        done.append(finding)
        if not as_json:
            _print(finding)
    wrong = [finding.name for finding in done if finding.level == "error"]
    warned = [finding.name for finding in done if finding.level == "warning"]
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in done]})
    elif wrong:
        echo()
        print_styled((f"Wrong: {', '.join(wrong)}.", "bold red"))
    else:
        better = f" Could be better: {', '.join(warned)}." if warned else ""
        echo()
        print_styled((f"This machine can {can}.", "bold green"), (better, "yellow"))
    sys.exit(EXIT_FAILURES if wrong else 0)


def _print(finding: Finding) -> None:
    """One finding, and below it what to do. A pipe gets each in one line."""
    mark, style = _MARKS[finding.level]
    first, *more = _lines(finding.text)
    print_styled((f"{mark:<5}", style), (f"  {finding.name:<13}", "bold"), (f"  {first}", ""))
    advice = _lines(f"-> {finding.advice}") if finding.advice else []
    for line, look in (*((line, "") for line in more), *((line, "yellow") for line in advice)):
        print_styled((f"{'':<{_INDENT}}{line}", look))


def _lines(text: str) -> list[str]:
    width = shutil.get_terminal_size().columns - _INDENT if sys.stdout.isatty() else 0
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False) if width else [text]
