"""What several checks need, each read once and only when it is asked for."""

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.paths import PARAMS
from pipeline.doctor.programs import Answer, ask

if TYPE_CHECKING:
    from dvc.repo import Repo

    from pipeline.params.schema import Params


def find_root(folder: Path) -> Path | None:
    """The nearest folder, from this one upwards, that holds ``params.yaml`` and ``dvc.yaml``, or one of them."""
    parents = [folder, *folder.parents]
    both = (parent for parent in parents if (parent / PARAMS).is_file() and (parent / "dvc.yaml").is_file())
    either = (parent for parent in parents if (parent / PARAMS).is_file() or (parent / "dvc.yaml").is_file())
    return next(both, None) or next(either, None)


class Surroundings:
    """The repository in the current folder, the environment and the machine.

    Attributes:
        start: the folder that the command was called in.
    """

    def __init__(self, start: Path | None = None) -> None:
        self.start = start or Path.cwd()

    def git(self, *arguments: str) -> Answer | None:
        """Ask git something that changes nothing; None where there is no git or it refuses."""
        # In English, because its complaints are read; without locks, which would disturb a git beside this one.
        answer = ask("git", "--no-optional-locks", *arguments, environment={**os.environ, "LC_ALL": "C"})
        return answer if answer and not answer.code else None

    @cached_property
    def has_repository(self) -> bool:
        """Whether git takes this folder for a part of a repository's tree."""
        answer = self.git("rev-parse", "--is-inside-work-tree")
        return answer is not None and answer.text == "true"

    @cached_property
    def commit(self) -> str:
        """The commit HEAD, empty where there is none."""
        answer = self.git("rev-parse", "--quiet", "--verify", "HEAD^{commit}")
        return answer.text if answer else ""

    @cached_property
    def project(self) -> dict[str, Any]:
        """The section ``project`` of ``pyproject.toml``.

        Raises:
            OSError, ValueError: there is no such file, or it is no TOML.
        """
        section: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
        return section

    @cached_property
    def params(self) -> "Params":
        """The parameters.

        Raises:
            PipelineError: as ``load_params``.
        """
        from pipeline.params.file import load_params

        return load_params(PARAMS)

    @cached_property
    def valid_params(self) -> "Params | None":
        """The parameters, None where they cannot be read: another check says why."""
        try:
            return self.params
        except Exception:  # also that of a package that is missing
            return None

    @cached_property
    def dvc(self) -> "DvcConfig":
        """DVC's configuration.

        Raises:
            Exception: DVC cannot be imported, or cannot read it.
        """
        with open_repository() as repo:
            return DvcConfig(
                Path(repo.cache.local.path),
                list(repo.cache.local.cache_types),
                {**repo.config["remote"]},
                repo.config["core"],
            )

    @property
    def cache_folder(self) -> Path:
        """DVC's cache, or where it usually lies if DVC does not say."""
        try:
            return self.dvc.cache
        except Exception:  # another check says why
            return Path(".dvc/cache")


@dataclass(frozen=True)
class DvcConfig:
    """What DVC's configuration files say.

    Attributes:
        cache: the folder of the cache's files.
        links: how files get from there into the workspace, by preference.
        remotes: the settings of each remote storage by its name.
        core: the section ``core``.
    """

    cache: Path
    links: list[str]
    remotes: dict[str, dict[str, Any]]
    core: dict[str, Any]


@contextmanager
def open_repository() -> Iterator["Repo"]:
    """Open DVC's view of this folder; git is left out, so that it also works where that is broken.

    DVC makes ``.dvc/tmp`` when it opens a repository: where it was not there before, it is removed again. It would
    also mend ``.dvc/.gitignore`` if git were not left out.
    """
    from dvc.repo import Repo
    from scmrepo.noscm import NoSCM

    here, temporary = str(Path.cwd()), Path(".dvc/tmp")
    fresh = not temporary.exists()
    try:
        with Repo(here, scm=NoSCM(here)) as repo:
            yield repo
    finally:
        if fresh:
            with suppress(OSError):
                (temporary / "btime").unlink(missing_ok=True)
                temporary.rmdir()
