"""The checks in environments of their own, one a Python version: ``nox -s tests-3.13 -- -m "not slow"``.

The versions and the commands are those of CI and of the Makefile. Each of the five environments takes some 5 GB and
is kept in ``.nox/`` for the next time.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

PYTHONS = ["3.11", "3.12", "3.13"]


def install(session: nox.Session) -> None:
    """The project and what its development needs, each package in the one version that is tested."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")


def make(session: nox.Session, target: str) -> None:
    """Run a target of the Makefile, which alone says what it consists of, in this environment."""
    environment = Path(session.virtualenv.location)
    # Newer than what the Makefile makes its environment from, so that it takes this one as it is.
    (environment / ".ready").touch()
    session.run("make", target, f"VENV={environment}", external=True)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Style of the code, and the linters of YAML and workflows."""
    install(session)
    make(session, "lint")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """The types, by mypy."""
    install(session)
    make(session, "types")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests; what follows ``--`` goes to pytest."""
    install(session)
    session.run("pytest", *session.posargs)
