"""Checks of the data: the source can be reached, what was made of it is whole."""

import importlib.util
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.paths import DATASET, METRICS, RAW_ARCHIVE
from pipeline.doctor.finding import Finding, error, note, ok
from pipeline.doctor.privacy import shell_path
from pipeline.doctor.python import installing
from pipeline.doctor.surroundings import Surroundings
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.params.schema import DataParams


def source(here: Surroundings) -> Iterator[Finding]:
    """The images can be had; the network is not asked."""
    if here.valid_params is None:
        return
    params = here.valid_params.data
    checks = {"folder": _folder, "archive": _archive, "modelscope": _modelscope}
    if params.source in checks:
        yield from checks[params.source](params)
    else:
        yield ok("source", f"{params.source}, which scikit-learn brings")


def _folder(params: "DataParams") -> Iterator[Finding]:
    path = Path(params.location or "")
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        mend = "set data.location to a folder of images, or data.source to archive for a zip or tar"
        yield error("source", f"data.location: the folder {path} {found}", mend)
        return
    with os.scandir(path) as entries:
        folders = Counter("folders" if entry.is_dir() else "files" for entry in entries)
    count = " and ".join(f"{number:,} {kind}" for kind, number in sorted(folders.items(), reverse=True))
    if not folders:
        yield error("source", f"data.location: the folder {path} is empty", "put the images there, one folder a class")
    else:
        yield ok("source", f"the folder {path} holds {count}")


def _archive(params: "DataParams") -> Iterator[Finding]:
    from pipeline.params.schema import is_url

    location = params.location or ""
    if is_url(location):
        yield _of_url(location, params.sha256 or "")
        return
    path = Path(location)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        mend = "set data.location to a zip or tar of images, or data.source to folder"
        yield error("source", f"data.location: the archive {path} {found}", mend)
    else:
        yield ok("source", f"the archive {path}, {path.stat().st_size / 1e6:,.1f} MB")


def _of_url(location: str, sha256: str) -> Finding:
    """Whether a fetched copy is in the shared cache; its checksum is its name there."""
    from pipeline.download.http import cache_folder

    path = cache_folder() / sha256
    if path.is_file():
        return ok(
            "source", f"the archive {location} was fetched, {path.stat().st_size / 1e6:,.1f} MB, {shell_path(path)}"
        )
    return ok("source", f"the archive {location} will be fetched; not asked whether it is there")


def _modelscope(params: "DataParams") -> Iterator[Finding]:
    from pipeline.download.http import cache_folder
    from pipeline.download.sources import DATASET as FOOD11

    name = params.location or FOOD11
    folder = cache_folder() / "modelscope" / name
    there = folder.exists() or folder.with_name(f"{folder.name}.git").exists()
    line = f"{name} on ModelScope, {'some of it' if there else 'nothing of it yet'} in {shell_path(cache_folder())}"
    if importlib.util.find_spec("modelscope_hub") is not None:
        yield ok("source", f"{line}; the hub's client fetches it; not asked whether it is there")
    elif shutil.which("git-lfs") is not None:
        yield ok("source", f"{line}; git and git-lfs fetch it; not asked whether it is there")
    else:
        client = installing("-c constraints.txt -e '.[modelscope]'")
        yield error(
            "source", f"{line}; neither the hub's client nor git-lfs is here", f"{client}, or `apt install git-lfs`"
        )


def raw_archive(_: Surroundings) -> Iterator[Finding]:
    """``data/raw.zip`` can be read."""
    if not RAW_ARCHIVE.is_file():
        return
    from pipeline.common.raw_archive import SPLITS, read_raw_archive

    try:
        with zipfile.ZipFile(RAW_ARCHIVE) as archive:
            classes, images = read_raw_archive(archive)
    except (PipelineError, zipfile.BadZipFile) as problem:
        yield error("images", f"{RAW_ARCHIVE} is damaged: {problem}", "`dvc repro --force --single-item download`")
        return
    counts = Counter(image.split for image in images)
    splits = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split])
    size = RAW_ARCHIVE.stat().st_size / 1e6
    yield ok("images", f"{RAW_ARCHIVE}: {len(classes)} classes; {splits}; {size:,.1f} MB")


def dataset(_: Surroundings) -> Iterator[Finding]:
    """The packed arrays have the sizes that their manifest says."""
    if not DATASET.is_dir():
        return
    mend = "`dvc repro --force --single-item augment`"
    try:
        shapes = _shapes()
    except (PipelineError, ValueError, KeyError, TypeError, OSError) as problem:
        yield error("dataset", f"{DATASET} cannot be read: {problem}", mend)
        return
    for split, shape in shapes.items():
        path, pixels = DATASET / f"{split}.npy", _product(shape)
        size = path.stat().st_size if path.exists() else 0
        if not pixels < size < pixels + 65536:
            yield error("dataset", f"{path} has {size:,} bytes, wanted are {pixels:,} and a header", mend)
            return
    total = sum(_product(shape) for shape in shapes.values()) / 1e6
    listing = ", ".join(f"{split} {'×'.join(map(str, shape))}" for split, shape in shapes.items())
    yield ok("dataset", f"{DATASET}: {listing}; {total:,.1f} MB")


def _shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the packed arrays; none of their pixels is read."""
    from pipeline.common.dataset import Manifest

    return Manifest.read(DATASET).shapes


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def dataset_bytes(here: Surroundings) -> int | None:
    """How much the packed arrays take with the parameters of now; None where nobody knows the images yet."""
    params = here.valid_params
    if params is None:
        return None
    try:
        counts = {split: shape[0] for split, shape in _shapes().items()}
    except Exception:  # the checks of the dataset say why
        return None
    size = params.augment.image_size**2 * 3
    copies = {"train": 1 + params.augment.views}
    return sum(count * copies.get(split, 1 + params.augment.test_views) * size for split, count in counts.items())


def metrics(_: Surroundings) -> Iterator[Finding]:
    """The metrics of the last evaluation are there, and can be read."""
    path = METRICS / "evaluate.json"
    if not path.is_file():
        yield note("metrics", f"there is no {path} yet", "`dvc repro`")
        return
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        accuracy = f"{content['accuracy']:.4f}"
    except (ValueError, KeyError, TypeError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        yield error("metrics", f"{path} cannot be read ({reason})", f"`git checkout -- {path}`, or `dvc repro`")
        return
    yield ok("metrics", f"accuracy {accuracy} on the {content.get('split', 'evaluated')} split, in {path}")
