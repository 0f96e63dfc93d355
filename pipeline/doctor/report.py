"""The report: lines for a person, or JSON. Without colour and escape codes unless it goes to a terminal."""

import importlib.metadata
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable

from pipeline.doctor.checks import CHECKS
from pipeline.doctor.examination import examine
from pipeline.doctor.finding import Finding, Status
from pipeline.doctor.privacy import shareable
from pipeline.doctor.surroundings import Surroundings, find_root

SYMBOLS = {Status.OK: "✓", Status.NOTE: "!", Status.ERROR: "✗"}
COLOURS = {Status.OK: "green", Status.NOTE: "yellow", Status.ERROR: "bold red"}
PLURALS = {Status.OK: "ok", Status.NOTE: "notes", Status.ERROR: "errors"}
NAME_WIDTH = 16


def doctor(as_json: bool = False) -> int:
    """Run all checks, in the root of the project that the current folder is in, and print what they find.

    Returns:
        The exit code: 1 where there is an error, else 0.
    """
    here = Surroundings()
    os.chdir(find_root(here.start) or here.start)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a file's name may hold what the output has no character for
    findings = ((heading, _fit_to_be_shown(finding)) for heading, finding in examine(CHECKS, here))
    head = {key: shareable(value) for key, value in _head(here).items()}
    counts = (_print_json if as_json else _print_lines)(head, findings)
    return int(counts[Status.ERROR] > 0)


def _fit_to_be_shown(finding: Finding) -> Finding:
    return Finding(finding.name, finding.status, shareable(finding.found), shareable(finding.mend))


def _head(here: Surroundings) -> dict[str, str]:
    """What a maintainer asks first."""
    try:
        name, version = here.project["name"], here.project["version"]
    except (OSError, ValueError, LookupError):  # there is no pyproject.toml, or it is none
        name = "image-classification-pipeline"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "of unknown version"
    python = platform.python_version()
    return {
        "project": name,
        "version": version,
        "commit": here.commit,
        "platform": platform.platform(),
        "python": python,
    }


def _print_json(head: dict[str, str], findings: Iterable[tuple[str, Finding]]) -> Counter[Status]:
    rows = [{"heading": heading, **vars(finding)} for heading, finding in findings]
    counts = Counter(row["status"] for row in rows)
    by_name = {status.value: counts[status] for status in Status}
    print(json.dumps({**head, "counts": by_name, "checks": rows}, indent=2, ensure_ascii=False))
    return counts


def _print_lines(head: dict[str, str], findings: Iterable[tuple[str, Finding]]) -> Counter[Status]:
    """Print each line as soon as it is known, and the counts in the end."""
    writer = _writer()
    commit = f"commit {head['commit'][:12]}" if head["commit"] else "no commit"
    writer.line(f"{head['project']} {head['version']}, {commit}")
    writer.line(f"{head['platform']}, Python {head['python']}")
    counts: Counter[Status] = Counter()
    last, mend = "", ""
    for heading, finding in findings:
        # Lines that are mended alike say so once, below the last of them.
        if mend and (heading, mend) != (last, finding.mend):
            writer.mend(mend)
        if heading != last:
            writer.heading(heading)
        writer.finding(finding)
        counts[finding.status] += 1
        last, mend = heading, finding.mend
    if mend:
        writer.mend(mend)
    writer.line("")
    writer.line(
        ", ".join(f"{counts[status]} {PLURALS[status] if counts[status] != 1 else status}" for status in Status)
    )
    return counts


def _writer() -> "_Writer":
    if sys.stdout.isatty():
        try:
            return _TerminalWriter()
        except ImportError:  # rich is missing, which a check says
            pass
    return _Writer()


class _Writer:
    """Plain lines, none of them wrapped, so that what is copied from them is whole."""

    def __init__(self) -> None:
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        self.symbols = SYMBOLS if encoding == "utf8" else dict.fromkeys(Status, "")

    def line(self, text: str) -> None:
        print(text, flush=True)

    def heading(self, text: str) -> None:
        self.line(f"\n{text}")

    def finding(self, finding: Finding) -> None:
        self.row(f"  {self.mark(finding.status)} {finding.name:<{NAME_WIDTH}} ", finding.found, finding.status)

    def mend(self, text: str) -> None:
        self.row(" " * (len(self.mark(Status.OK)) + NAME_WIDTH + 4), f"mend: {text}", None)

    def mark(self, status: Status) -> str:
        return f"{self.symbols[status]} {status:<5}".lstrip()

    def row(self, start: str, text: str, status: Status | None) -> None:
        self.line(start + text.replace("\n", "\n" + " " * len(start)))


class _TerminalWriter(_Writer):
    """Colours, and lines that are wrapped beside their names."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self.console = Console(highlight=False)

    def line(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(text))

    def heading(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(f"\n{text}", style="bold"))

    def row(self, start: str, text: str, status: Status | None) -> None:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(expand=False)
        grid.add_column(width=len(start), no_wrap=True)
        grid.add_column(overflow="fold")
        first = Text(start)
        if status is not None:
            first.stylize(COLOURS[status], 0, len(start) - NAME_WIDTH - 1)
        grid.add_row(first, Text(text, style="" if status else "cyan"))
        self.console.print(grid)
