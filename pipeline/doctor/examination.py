"""Runs the checks one after the other; whatever happens to one, the others go on."""

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from pipeline.doctor.finding import Check, Finding, note
from pipeline.doctor.surroundings import Surroundings

# A folder on a server that is away, or a broken driver, would hold a check for ever; importing torch takes its time.
PATIENCE = 120.0  # seconds


def examine(
    checks: Mapping[str, Sequence[Check]], here: Surroundings, patience: float = PATIENCE
) -> Iterator[tuple[str, Finding]]:
    """Run the checks in the current folder.

    Args:
        checks: by heading.
        here: what they look at.
        patience: seconds after which a check is given up.

    Yields:
        The heading and a finding, as soon as its check has ended.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for heading, functions in checks.items():
            for check in functions:
                for finding in _findings(check, here, patience):
                    yield heading, finding
    finally:
        logging.disable(disabled)


def _findings(check: Check, here: Surroundings, patience: float) -> list[Finding]:
    """What a check finds; if it raises or hangs, that too."""
    found: list[Finding] = []
    name = check.__name__.replace("_", " ")

    def work() -> None:
        try:
            for finding in check(here):
                found.append(finding)
        except BaseException as problem:
            found.append(_failure(name, problem))

    thread = threading.Thread(target=work, daemon=True)
    # What libraries say on the way is no part of the report.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread.start()
        thread.join(patience)
    if thread.is_alive():
        return [*found, note(name, f"could not be checked: no answer within {patience:g} s")]
    return found


def _failure(name: str, problem: BaseException) -> Finding:
    if isinstance(problem, ModuleNotFoundError):
        return note(
            name, f"could not be checked: there is no package {problem.name}", "install the packages, as said above"
        )
    reason = (str(problem).splitlines() or [""])[0]
    return note(name, f"could not be checked: {type(problem).__name__}{f': {reason}' if reason else ''}")
