"""Whatever happens to a file between two stages, its reader returns what was written, or ends in one line."""

import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.common.dataset import PackedDataset
from pipeline.common.paths import DATASET, MODEL, RAW_ARCHIVE
from pipeline.common.raw_archive import RawReader, read_raw_archive
from pipeline.common.results import read_results
from pipeline.errors import PipelineError
from pipeline.network.weights import load_model
from pipeline.report.inputs import read_inputs
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint
from tests.support.examples import examples
from tests.support.report_results import write_run

SECONDS = 10
BYTES = 500e6
CHECKPOINT = Path("run.pt")


def read_archive() -> Any:
    classes, images, left_out = read_raw_archive(RAW_ARCHIVE)
    reader = RawReader(RAW_ARCHIVE)
    return (
        classes,
        left_out,
        [(image.entry, image.split, image.label, image.id, reader.read(image)) for image in images],
    )


def read_dataset() -> Any:
    dataset = PackedDataset(DATASET)
    splits = [dataset.split(name) for name in ("train", "valid", "test")]
    arrays = [(split.images.tobytes(), split.labels.tobytes(), split.ids, split.sources) for split in splits]
    return repr(dataset.manifest), arrays


def read_model() -> Any:
    model, spec = load_model(MODEL)
    return spec, {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def read_checkpoint() -> Any:
    state = load_checkpoint(CHECKPOINT)
    if state is None:
        raise PipelineError("it is set aside")
    return state["position"], state["weights"].numpy().tobytes()


def read_report() -> Any:
    inputs = vars(read_inputs())
    return {name: value.to_csv() if isinstance(value, pd.DataFrame) else value for name, value in inputs.items()}


# What reads the files that these patterns match.
READERS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "archive": (read_archive, ["data/raw.zip"]),
    "manifest": (read_dataset, ["data/dataset/manifest.json"]),
    "index": (read_dataset, ["data/dataset/index.csv"]),
    "arrays": (read_dataset, ["data/dataset/train.npy", "data/dataset/valid.npy", "data/dataset/test.npy"]),
    "weights": (read_model, ["results/model.safetensors"]),
    "results": (lambda: read_results("train"), ["results/metrics/train.json", "results/details/train.json"]),
    "tables": (
        read_report,
        ["results/audit.csv", "results/evaluation/*.csv", "results/plots/*.csv", "results/live/**/*.tsv"],
    ),
    "checkpoint": (read_checkpoint, [str(CHECKPOINT)]),
}


def damaged(content: bytes, others: list[bytes], chance: random.Random) -> tuple[str, bytes]:
    """One kind of damage, with its name."""
    start = chance.randrange(max(len(content), 1))
    length = chance.choice((1, 8, 64, 4096, len(content)))
    some, zeros = bytearray(content), bytes(length)
    kind = chance.choice(("bit", "byte", "zeros", "cut", "empty", "lost", "repeated", "doubled", "other", "mixed"))
    if kind == "bit" and content:
        some[start] ^= 1 << chance.randrange(8)
    elif kind == "byte" and content:
        some[start] = chance.randrange(256)
    elif kind == "zeros":
        some[start : start + length] = zeros[: len(content) - start]
    elif kind == "cut":
        del some[start:]
    elif kind == "empty":
        some.clear()
    elif kind == "lost":
        del some[start : start + length]
    elif kind == "repeated":
        some[start:start] = some[start : start + length]
    elif kind == "doubled":
        some *= 2
    elif kind == "other":
        some = bytearray(chance.choice(others))
    else:
        some[start : start + length] = chance.randbytes(min(length, len(content) - start))
    return kind, bytes(some)


def check(name: str, mutations: int, seed: int = 0) -> dict[str, int]:
    """Damage the files of a reader in the current folder; count how it ended."""
    read, patterns = READERS[name]
    files = sorted(path for pattern in patterns for path in Path().glob(pattern))
    every = [path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()]
    expected, chance, ends = read(), random.Random(f"{name} {seed}"), {"refused": 0, "as written": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(mutations):
        path = chance.choice(files)
        content = path.read_bytes()
        kind, changed = damaged(content, every, chance)
        path.write_bytes(changed)
        start, what = time.monotonic(), f"{name}, mutation {number}: {kind} of {path}"
        try:
            assert read() == expected, f"{what}: used as it is"
            ends["as written"] += 1
        except PipelineError as error:
            assert "\n" not in str(error), what
            assert len(str(error)) < 1000, what
            ends["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        assert time.monotonic() - start < SECONDS, what
        path.write_bytes(content)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < BYTES, f"{grown / 1e6:,.0f} MB"
    assert read() == expected
    return ends


@pytest.fixture
def written(trained):
    """The files of a small run of each stage before the report, and a checkpoint."""
    save_checkpoint(CHECKPOINT, {"position": (1, 2), "weights": torch.ones(2000)})


@pytest.fixture
def reported(workspace):
    """Generated results of all stages."""
    write_run(workspace, ("cat", "dog"), 24)


@pytest.mark.parametrize("name", [name for name in READERS if name != "tables"])
def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_was_written(written, name):
    ends = check(name, examples(100))
    assert ends["refused"] > 50


def test_damaged_tables_of_the_report_are_refused_in_one_line(reported):
    assert check("tables", examples(40))["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_kinds_of_damage(request, name):
    request.getfixturevalue("reported" if name == "tables" else "written")
    print(name, check(name, 10_000 if name != "tables" else 2_000, seed=1))
