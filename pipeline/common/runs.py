"""Earlier runs by name: experiments, branches, tags and commits of the repository that the user works in."""

from pathlib import Path

from pipeline.common.paths import MODEL, repository_root
from pipeline.common.text import one_line, similar
from pipeline.common.yaml_file import parse_yaml
from pipeline.errors import PipelineError
from pipeline.git import git

RUN = "run:"  # before the name in model.pretrained and --model


def find_commit(run: str, option: str) -> str:
    """The commit of ``run:NAME``, which is the value of the parameter or the option ``option``.

    Raises:
        PipelineError: there is no such experiment, branch, tag or commit, or several experiments have the name.
    """
    name = run.removeprefix(RUN)
    try:
        return git("rev-parse", "--verify", f"{name}^{{commit}}", folder=repository_root())
    except PipelineError:
        commits = {commit for commit, experiment in _experiments() if experiment == name}
    if len(commits) == 1:
        return commits.pop()
    raise PipelineError(f"{option}: got {run}, but {unknown(name)}")


def unknown(name: str, *others: str) -> str:
    """Why no commit is found by a name, with similar ones, also of ``others``."""
    experiments = [experiment for _, experiment in _experiments()]
    if name in experiments:
        return "experiments of several commits have this name; use the commit that dvc exp list -A shows"
    kinds = ("refs/heads", "refs/tags")
    branches = git("for-each-ref", "--format=%(refname:short)", *kinds, folder=repository_root()).splitlines()
    names = dict.fromkeys([*others, *experiments, *branches])
    return f"no commit, branch, tag or experiment has this name; there are {similar(name, names)}"


def _experiments() -> list[tuple[str, str]]:
    """The commit and the name of each experiment."""
    rows = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps", folder=repository_root()).splitlines()
    # refs/exps/{2 digits}/{38 digits}/{name}, the digits those of a commit.
    return [(row.split()[0], parts[4]) for row in rows if len(parts := row.split(maxsplit=1)[1].split("/")) == 5]


def model_md5(run: str, option: str) -> str:
    """The MD5 of the model in ``dvc.lock`` of ``run:NAME``, which is the value of ``option``.

    Raises:
        PipelineError: there is no such run, or it has no model.
    """
    commit = find_commit(run, option)
    lines = git("ls-tree", "--name-only", commit, "--", "dvc.lock", folder=repository_root())
    lock = git("show", f"{commit}:./dvc.lock", folder=repository_root()) if lines else ""
    stages = (parse_yaml(lock, "dvc.lock") if lock else {}).get("stages", {})
    outputs = [output for stage in stages.values() for output in stage.get("outs", [])]
    found = [str(output["md5"]) for output in outputs if output.get("path") == MODEL.as_posix() and output.get("md5")]
    if not found:
        raise PipelineError(
            f"{option}: {run} has no {MODEL} (dvc.lock of commit {commit[:7]}); run dvc repro there, and commit "
            "dvc.lock"
        )
    return found[0]


def copy_output(run: str, output: Path, folder: Path, option: str) -> Path:
    """Copy a file that a stage wrote in ``run:NAME``, the value of ``option``, to a folder, from DVC's cache or the
    remote storage.

    Raises:
        PipelineError: there is no such run, or it has no such file.
    """
    from dvc.api import DVCFileSystem

    commit, path = find_commit(run, option), folder / output.name
    try:
        DVCFileSystem(str(repository_root()), rev=commit).get_file(output.as_posix(), str(path))
    except Exception as error:  # a remote storage may raise anything
        raise PipelineError(
            f"{option}: {run}: its {output} (commit {commit[:7]}) is neither in DVC's cache nor in a remote storage "
            f"({one_line(str(error))[:200] or type(error).__name__}); run dvc repro there, or dvc pull"
        ) from None
    return path
