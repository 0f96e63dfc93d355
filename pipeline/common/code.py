"""Which code decides the result of a stage: the folders that ``dvc.yaml`` lists for it."""

import hashlib
from pathlib import Path

from pipeline.common.yaml_file import read_yaml

# The repository of the running code; in the workspace of a DVC experiment this is its own copy.
ROOT = Path(__file__).parents[2]
PACKAGE = "pipeline/"


def code_folders(*stages: str, root: Path = ROOT) -> list[str]:
    """The folders of code that the stages list in ``dvc.yaml``, relative to the repository, sorted."""
    workflow = read_yaml(root / "dvc.yaml")
    return sorted({dep for stage in stages for dep in workflow["stages"][stage]["deps"] if dep.startswith(PACKAGE)})


def code_digest(*stages: str, root: Path = ROOT) -> str:
    """A hash of the paths and contents of all files in these folders, except ``__pycache__``."""
    digest = hashlib.sha256()
    for folder in code_folders(*stages, root=root):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()
