"""The image files that a user names, one by one or by their folder."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pipeline.file_names import IMAGE_ENDINGS, is_image, is_junk


def find_images(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """List the files to predict, each once, and for each path that gives none, why not.

    Of a folder all files are taken that end like an image, in folders within it, too; hidden ones are passed over,
    and so are links to folders.
    """
    files: dict[str, Path] = {}
    failures: dict[Path, str] = {}
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            failures[path] = error.strerror or str(error)
            continue
        found = _images_below(path, failures) if is_folder else [path]
        for file in found:
            files.setdefault(os.path.abspath(file), file)  # noqa: PTH100  (resolve() would follow links)
        if not found and path not in failures:
            failures[path] = f"holds no images; allowed endings are {', '.join(sorted(IMAGE_ENDINGS))}"
    return list(files.values()), failures


def _images_below(root: Path, failures: dict[Path, str]) -> list[Path]:
    def note(error: OSError) -> None:
        failures[Path(error.filename)] = error.strerror or str(error)

    found = []
    for folder, _, names in os.walk(root, onerror=note):
        files = (Path(folder) / name for name in names)
        found += [file for file in files if is_image(file.name) and not is_junk(file.relative_to(root).as_posix())]
    return sorted(found)
