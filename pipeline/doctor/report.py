"""Runs the checks and prints what they find, as lines of text or as JSON."""

import os
import platform
import sys
import threading
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from pipeline.common.text import one_line

# Importing these modules adds their checks, in this order.
from pipeline.doctor import environment, project
from pipeline.doctor.finding import CHECKS, ERROR, NOTE, OK, Check, Finding, shareable
from pipeline.progress import say, say_json, set_up_output

SYMBOLS = {OK: "✓", NOTE: "!", ERROR: "✗"}
COLOURS = {OK: "\x1b[32m", NOTE: "\x1b[33m", ERROR: "\x1b[1;31m"}
# A folder on an unreachable server, or a broken driver, could block a check forever; importing torch is slow as well.
SECONDS_PER_CHECK = 120.0


def doctor(as_json: bool = False) -> int:
    """Run all checks in the root of the project around the current folder, and print what each finds when it ends.

    Returns:
        The exit code: 1 if something does not work, else 0.
    """
    here = Path.cwd()
    os.chdir(next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here))
    set_up_output()
    head = {
        "project": environment.PROJECT,
        "version": environment.installed(environment.PROJECT) or "(not installed)",
        "commit": project.git_output("rev-parse", "--verify", "--quiet", "HEAD"),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    if not as_json:
        say(f"{head['project']} {head['version']}, commit {head['commit'][:12] or 'none'}")
        say(f"{head['platform']}, Python {head['python']}")
    rows: list[dict[str, str]] = []
    for (heading, name), check in CHECKS.items():
        for finding in run_check(check):
            if not as_json:
                if not rows or rows[-1]["heading"] != heading:
                    say(f"\n{heading}")
                _print_finding(name, finding)
            rows.append({"heading": heading, "name": name, **finding._asdict()})
    counts = {status: sum(row["status"] == status for row in rows) for status in SYMBOLS}
    if as_json:
        say_json({**head, "counts": counts, "checks": rows})
    else:
        say("\nok: {ok}, notes: {note}, errors: {error}".format(**counts))
    return int(counts[ERROR] > 0)


def run_check(check: Check, seconds: float = SECONDS_PER_CHECK) -> list[Finding]:
    """Run a check for ``seconds`` at most; if it fails or does not end, that is a finding too. All may be shared."""
    findings: list[Finding] = []

    def work() -> None:
        try:
            for finding in check():
                findings.append(finding)
        except ModuleNotFoundError as problem:
            text = f"could not be checked: the package {problem.name} is missing"
            findings.append(Finding(NOTE, text, environment.installing()))
        except BaseException as problem:
            reason = one_line(f"{type(problem).__name__}: {problem}".partition("\n")[0])
            findings.append(Finding(NOTE, f"could not be checked: {reason}"))

    thread = threading.Thread(target=work, daemon=True)
    # What libraries print is not part of the report.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        findings.append(Finding(NOTE, f"could not be checked: no answer within {seconds:g} s"))
    return [Finding(status, shareable(found), shareable(fix)) for status, found, fix in findings]


def _print_finding(name: str, finding: Finding) -> None:
    """Print the lines of a finding, and below them how to fix it; a mark and colours where the output has them."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    mark = f"{SYMBOLS[finding.status]} {finding.status:<5}" if utf8 else f"{finding.status:<5}"
    indent = "\n" + " " * (len(mark) + 15)
    lines = finding.found.splitlines() + ([f"fix: {finding.fix}"] if finding.fix else [])
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        mark = f"{COLOURS[finding.status]}{mark}\x1b[0m"
    say(f" {name:<11} {indent.join(lines)}", mark=f"  {mark}")
