"""The checks in separate environments, one per Python version: ``nox -s tests-3.13``.

The versions are those of CI. Each of the three environments takes about 5 GB and is kept in ``.nox/`` for the next run.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run ``make test``, or pytest with the arguments after ``--``: ``nox -s tests-3.13 -- tests/train``."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        environment = Path(session.virtualenv.location)
        # Newer than the files that the Makefile creates its environment from: it uses this one as it is.
        (environment / ".ready").touch()
        session.run("make", "test", f"VENV={environment}", external=True)
