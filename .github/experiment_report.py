"""Changes by an experiment, as Markdown for a pull request: ``python .github/experiment_report.py BASE``.

Run it after ``dvc repro``. It compares the workspace with the commit ``BASE``; the workflow ``experiment.yml`` adds its
output to the summary of the run and to a comment, and any other CI can do the same.
"""

import argparse
import subprocess
import sys

from pipeline.common.text import shown

# The workflow finds its previous comment by this first line, which Markdown does not show.
WATERMARK = "<!-- experiment report -->"
# Characters that GitHub allows in a comment.
MAX_LENGTH = 65_536


def main() -> int:
    """Print the report; if there is no such base, print one line and return exit code 1."""
    parser = argparse.ArgumentParser(description="Print the changes by an experiment as Markdown.")
    parser.add_argument("base", help="branch, tag or commit to compare with")
    parser.add_argument("--results", default="", help="URL of the pictures and the report of the run")
    arguments = parser.parse_args()
    base = commit(arguments.base) or commit(f"origin/{arguments.base}")
    if base is None:
        allowed = "allowed is a branch, tag or commit of this clone; if it is shallow, run git fetch --unshallow"
        print(f"error: base: got {arguments.base!r}, {allowed}", file=sys.stderr)
        return 1
    try:
        print(report(base, arguments.results))
    except subprocess.CalledProcessError as error:
        print(f"error: {shown(' '.join(error.cmd))}: {shown(error.stderr.strip()) or 'failed'}", file=sys.stderr)
        return 1
    return 0


def report(base: str, results: str) -> str:
    """Return the report; without tables of metrics if it is too long for a comment."""
    head = commit("HEAD") or ""
    title = f"{WATERMARK}\n## Changes by this experiment"
    legend = f"Left: committed by the base ({base[:7]}). Right: the results of `dvc repro` for {head[:7]}."
    metrics = "### Metrics\n\n" + (table(difference("metrics", base), base) or "No metric changed.")
    params = "### Parameters\n\n" + (table(difference("params", base), base) or "No parameter changed.")
    link = f"Pictures, `report.html` and all results of this run: [results]({results})" if results else ""
    uncommitted = fold(
        "Metrics of this run that differ from those committed by the branch. Another machine can change the last "
        "digits; if more differs, run `dvc repro` and commit",
        table(difference("metrics", head), head),
    )
    whole = "\n\n".join(filter(None, [title, legend, metrics, params, link, uncommitted]))
    if len(whole) <= MAX_LENGTH:
        return whole
    hint = "The metrics are too long for a comment: `dvc metrics diff` prints them."
    short = "\n\n".join(filter(None, [title, legend, hint, params, link]))
    return short if len(short) <= MAX_LENGTH else short[: MAX_LENGTH - 4] + "\n\n…"


def commit(revision: str) -> str | None:
    """Return the full hash of the commit of a revision, or None."""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def difference(kind: str, revision: str) -> list[str]:
    """Return the lines of the table of ``dvc {kind} diff``, without secrets: header, rule, and one row per change."""
    command = [sys.executable, "-m", "dvc", kind, "diff", "--md", revision]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [shown(line) for line in lines if line.startswith("|")]


def table(lines: list[str], revision: str) -> str:
    """Return the table with the short hash of the commit in its header, or nothing if it has no rows."""
    return "\n".join([lines[0].replace(revision, revision[:7]), *lines[1:]]) if len(lines) > 2 else ""


def fold(title: str, text: str) -> str:
    """Return text that is shown by a click on its title."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>" if text else ""


if __name__ == "__main__":
    sys.exit(main())
