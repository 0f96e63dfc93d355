"""What an experiment changed, as Markdown for a pull request: ``python .github/experiment_report.py BASE``.

Run it after ``dvc repro``. It compares the workspace with the commit ``BASE``; the workflow ``experiment.yml`` puts its
output into the run's summary and into a comment, and any other CI can do the same.
"""

import argparse
import subprocess
import sys

# By its first line the workflow finds the comment that it wrote before; Markdown does not show it.
WATERMARK = "<!-- experiment report -->"
# Characters that GitHub takes in one comment.
LONGEST = 65_536


def main() -> int:
    """Print the report; a base that is not there ends in one line and exit code 1."""
    parser = argparse.ArgumentParser(description="What an experiment changed, as Markdown.")
    parser.add_argument("base", help="branch, tag or commit to compare with")
    parser.add_argument("--results", default="", help="address of the run's pictures and report")
    arguments = parser.parse_args()
    base = commit(arguments.base) or commit(f"origin/{arguments.base}")
    if base is None:
        allowed = "allowed is a branch, tag or commit of this clone; a shallow one lacks it: git fetch --unshallow"
        print(f"error: base: got {arguments.base!r}, {allowed}", file=sys.stderr)
        return 1
    try:
        print(report(base, arguments.results))
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd)}: {error.stderr.strip() or 'failed'}", file=sys.stderr)
        return 1
    return 0


def report(base: str, results: str) -> str:
    """Return the whole report, or one without its long tables where it is longer than a comment may be."""
    here = commit("HEAD") or ""
    metrics = difference("metrics", base)
    parts = [
        f"{WATERMARK}\n## What this experiment changed",
        f"Left: what the base has committed ({base[:7]}). Right: what `dvc repro` gave here from {here[:7]}.",
        "### Metrics\n\n" + (table(summary(metrics), base) or "No metric of the evaluation changed."),
        "### Parameters\n\n" + (table(difference("params", base), base) or "No parameter changed."),
    ]
    if results:
        parts.append(f"Pictures, `report.html` and all metrics of this run: [results]({results})")
    folded = [
        fold("All metrics that changed", table(metrics, base)),
        fold(
            "This run's metrics beside those that the branch has committed: another machine differs in the last "
            "digits; more means that `dvc repro` and a commit are due",
            table(difference("metrics", here), here),
        ),
    ]
    whole = "\n\n".join(parts + [part for part in folded if part])
    if len(whole) <= LONGEST:
        return whole
    short = "\n\n".join([*parts, "The full tables are too long for a comment: `dvc metrics diff` prints them."])
    return short if len(short) <= LONGEST else short[: LONGEST - 4] + "\n\n…"


def commit(revision: str) -> str | None:
    """Return the full hash of the commit that a name stands for, or None."""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def difference(kind: str, revision: str) -> list[str]:
    """Return the table of ``dvc metrics diff`` or ``dvc params diff`` by lines: heading, rule, and a row a change."""
    command = [sys.executable, "-m", "dvc", kind, "diff", "--md", revision]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if line.startswith("|")]


def summary(lines: list[str]) -> list[str]:
    """Keep the plain numbers of the evaluation: not its intervals, nor what the other stages measured."""
    rows = [line for line in lines[2:] if "/evaluate.json" in line.split("|")[1] and "." not in line.split("|")[2]]
    return lines[:2] + rows


def table(lines: list[str], revision: str) -> str:
    """Return the table with a short name for the commit in its heading, or nothing if it has no row."""
    return "\n".join([lines[0].replace(revision, revision[:7]), *lines[1:]]) if len(lines) > 2 else ""


def fold(title: str, text: str) -> str:
    """Return text that a click on its title shows."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>" if text else ""


if __name__ == "__main__":
    sys.exit(main())
