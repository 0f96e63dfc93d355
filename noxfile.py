"""The checks in separate environments, one per Python version: ``nox -s tests-3.13``.

The versions are those of CI, the commands those of the Makefile. Each of the five environments takes about 5 GB and is
kept in ``.nox/`` for the next run.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

PYTHONS = ["3.11", "3.12", "3.13"]


def install(session: nox.Session) -> None:
    """Install the project with its development tools, each package in the tested version."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")


def make(session: nox.Session, target: str) -> None:
    """Run a target of the Makefile in this environment."""
    environment = Path(session.virtualenv.location)
    # Newer than the files that the Makefile creates its environment from: it uses this one as it is.
    (environment / ".ready").touch()
    session.run("make", target, f"VENV={environment}", external=True)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Check the style of the code, the YAML files and the workflows."""
    install(session)
    make(session, "lint")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Check the types."""
    install(session)
    make(session, "types")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run ``make test``, or pytest with the arguments after ``--``: ``nox -s tests-3.13 -- tests/train``."""
    install(session)
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        make(session, "test")
