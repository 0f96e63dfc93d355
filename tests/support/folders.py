"""Folders that several tests start from."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def inside_copy(source: Path, folder: Path) -> Iterator[Path]:
    """Copy ``source`` to ``folder``, which is the working folder within the block."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
