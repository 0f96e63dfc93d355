"""Measurements in sections, each in a process of its own with a limit of time; a file of JSON lines, and its table."""

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """A measurement."""

    name: str
    value: float
    unit: str


Work = Callable[[Any], Iterator[Figure]]


class Section(NamedTuple):
    """A name, a limit in seconds, the work, which gets the settings of the run, and environment variables.

    With variables the process imports everything again: some are read at an import.
    """

    name: str
    limit: float
    work: Work
    variables: Mapping[str, str] = {}


class SkippedError(Exception):
    """A section cannot run here."""


def run_sections(sections: list[Section], settings: Any, out: Path, facts: dict[str, Any], minutes: float) -> None:
    """Run the sections, and append a line to ``out`` for each figure at once.

    Args:
        sections: the most valuable first.
        settings: what their work gets; its ``start`` is the way of ``multiprocessing`` to start a process.
        out: the file; what the sections print is in the same folder, in a file that ends in ``.log``.
        facts: for each line.
        minutes: after which no section starts or goes on.
    """
    end = time.monotonic() + 60 * minutes
    for section in sections:
        limit = min(section.limit, end - time.monotonic())
        for line in _lines(section, settings, limit, out.with_suffix(".log")):
            with out.open("a") as file:
                file.write(json.dumps({"section": section.name, **line, **facts}) + "\n")
            print(f"{section.name:24} {line['name']:56} {shown(line)}", flush=True)


def _lines(section: Section, settings: Any, limit: float, log: Path) -> Iterator[dict[str, Any]]:
    """The lines that a new process sends, which is ended after ``limit`` seconds."""
    reason = {"name": "", "value": None, "unit": ""}
    if limit < 1:
        yield reason | {"skipped": "the time was over"}
        return
    context = multiprocessing.get_context("spawn" if section.variables else settings.start)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(section.work, settings, writer, log))
    before = os.environ.copy()
    os.environ.update(section.variables)
    process.start()
    os.environ.clear()
    os.environ.update(before)
    writer.close()
    end = time.monotonic() + limit
    try:
        while reader.poll(max(0.0, end - time.monotonic())):
            yield reason | reader.recv()
        yield reason | {"error": f"stopped after {limit:.0f} s"}
    except EOFError:  # it has ended
        process.join()
        if process.exitcode:
            yield reason | {"error": f"the process ended with the code {process.exitcode}"}
    finally:
        with suppress(ProcessLookupError):  # with all processes that it has started
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _work(work: Work, settings: Any, writer: Any, log: Path) -> None:
    os.setsid()
    with log.open("a") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    try:
        for figure in work(settings):
            writer.send(figure._asdict())
    except SkippedError as error:
        writer.send({"skipped": str(error)})
    except BaseException as error:
        traceback.print_exc()
        writer.send({"error": f"{type(error).__name__}: {[*str(error).splitlines(), ''][0]}"})


def way_to_start(probe: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """How processes start: as copies of this one, which has imported everything, if a probe works in those.

    Raises:
        SystemExit: it does not work in a new process either.
    """
    for start in ("fork", "spawn"):
        try:
            with multiprocessing.get_context(start).Pool(1) as pool:
                return start, pool.apply(probe, arguments)
        except (AssertionError, RuntimeError) as error:
            reason = [*str(error).splitlines(), ""][0]
    raise SystemExit(f"{', '.join(map(str, arguments))}: cannot be used here ({reason})")


def shown(line: dict[str, Any]) -> str:
    """The value of a line for people."""
    value, unit = line["value"], line["unit"]
    if value is None:
        return f"not measured: {line.get('skipped') or line['error']}"
    if unit == "same bits":
        return "the same bits" if value else "**other bits**"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}".strip()


def table(sections: list[Section], lines: list[dict[str, Any]]) -> str:
    """The lines of a file as Markdown; a section without lines is not measured."""
    rows = ["| section | what | measured |", "| --- | --- | --- |"]
    for section in sections:
        found = [line for line in lines if line["section"] == section.name]
        rows += [f"| {section.name} | {line['name']} | {shown(line)} |" for line in found]
        rows += [] if found else [f"| {section.name} | | not measured |"]
    facts = {f"{line['device']}; " + ", ".join(f"{k} {v}" for k, v in line["versions"].items()) for line in lines}
    return "\n".join([*sorted(facts), *[""] * bool(facts), *rows])
