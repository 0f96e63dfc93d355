"""Whatever params.yaml contains, a run works or is refused in one line before any work.

Random mutations of a small, valid params.yaml, through the commands of all stages, in this process. As with DVC, only
the stages run whose parameters differ from those of the valid file. The number of a mutation is its random seed; to run
others, or a single one:

    PIPELINE_MUTATIONS=500-5500 pytest -s tests/params/test_mutations.py
"""

import hashlib
import os
import random
import re
import shutil
import sys
import traceback
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.params.file import check_params
from pipeline.params.schema import Params
from tests.support.sections import AUGMENT, DATA, EVALUATE, MODEL, PREDICT, TRAIN, TSNE, write_photos

ROOT = Path(__file__).parents[2]
FIRST, END = map(int, os.environ.get("PIPELINE_MUTATIONS", "0-1000").split("-"))
CHAIN = {name: stage for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()}
BASE = {
    "seed": 1,
    "data": {**DATA, "classes": None},
    "augment": {**AUGMENT, "views": 1, "test_views": 1},
    "model": MODEL,
    "train": {**TRAIN, "epochs": 2, "precision": "fp32"},
    "evaluate": EVALUATE,
    "tsne": {**TSNE, "perplexity": 3.0},
    "explain": {"method": "grad_cam", "max_images": 100},
    "predict": PREDICT,
    "learning_rates": {
        "steps": 5,
        "condition_number": 1000.0,
        "lr": 0.6,
        "gd_lr_large": 1.99,
        "gd_lr_small": 0.02,
        "decay_steps": 10,
        "warmup_steps": 5,
    },
}
# Changes that belong together: another network, loss or source.
STARTS = [
    {},
    {"data.location": "pair", "train.loss": "bce"},
    {"train.schedule": "onecycle", "train.warmup_epochs": 0.5},
    {"evaluate.tta": "views", "predict.tta": "auto"},
    {"data.source": "archive", "data.location": "pair.zip"},
]
NETWORKS = [
    {"model.name": "squeezenet1_1", "tsne.layers": ["features.3"]},
    {"model.name": "resnet18", "model.stem": "small", "tsne.layers": ["layer1", "fc"]},
    {"model.name": "mobilenet_v3_small", "tsne.layers": ["avgpool"], "train.optimizer": "muon"},
]
SHAPES = ["data.source", "data.location", "data.classes", "data.valid_fraction", "data.test_fraction"]
SHAPES += ["augment.image_size", "augment.views", "augment.test_views", "model.name", "model.width", "model.stem"]
SHAPES += ["train.loss"]
# These take seconds, and read the same parameters in the same way every time.
NOW_AND_THEN = {"export", "report"}
KEYS = [
    f"{section}.{name}"
    for section, outer in Params.model_fields.items()
    if isinstance(outer.annotation, type) and issubclass(outer.annotation, BaseModel)
    for name in outer.annotation.model_fields
] + ["seed"]
FREE = {
    "data.source": ["folder"],
    "data.location": ["pair", "photos", "pair.zip"],
    "data.mirrors": [[]],
    "data.revision": [None],
    "data.sha256": [None],
    "data.classes": [None, ["blue", "green", "red"], ["красный", "a: b", "#c"], ["blue", "green"]],
    "augment.transforms": [
        [],
        [{"name": "HorizontalFlip"}],
        [{"name": "GaussNoise", "p": 0.5}, {"name": "Rotate", "limit": [-5, 5]}],
        [{"name": "RandomCrop", "height": 16, "width": 16}],
    ],
    "model.name": ["classifier"],
    "tsne.layers": [["hidden1"], ["blocks.0", "output"], ["blocks.4.3"], ["flatten"]],
}
JUNK = [None, True, "", "5", "0.1", "3e-05", "abc", "größe: ☃", [], {}, [[1]], {"a": {"b": [None]}}, [None, 1], -1]
JUNK += [10**30, 10**400, 1e308, 1e-320, -0.0, float("nan"), float("inf"), -float("inf"), "x" * 5000, "two\nlines"]
TRANSFORMS = [[{"name": "Nope"}], [{"name": "Rotate", "limits": 3}], [{"name": "Normalize"}], [{"name": 5}], [5]]
TRANSFORMS += [[{"name": "Rotate", "limit": "wide"}], [{"name": "BasicTransform"}], [{"name": "RandomCrop"}]]
# Errors that only the images or the machine can show.
DATA_ERRORS = [
    r"train: the (valid )?loss is (nan|inf|-inf) (in step|after epoch)",
    r"results/model.safetensors: gives no finite output",
    r"results/model.safetensors: .* gives values that are infinite",
    r"params.yaml: train.loss: got bce, which needs 2 classes, not 3",
    r"params.yaml: train.precision: got fp16, which is slow on the CPU",
    r"data.location: the (folder|archive) ",
    r"pair(.zip)?: the folder ",
    r"photos: the folder ",
    r"data: class \w+ has \d+ images",
    r"params.yaml: (evaluate|tsne|predict).split: got test, but there are no test images",
    r"data/dataset: has no test split",
    r"data/raw.zip: train has images of",
]


def schema_of(key):
    """The JSON schema of a parameter."""
    section, _, name = key.rpartition(".")
    return (Params.model_fields[section].annotation if section else Params).model_json_schema()["properties"][name]


def inside(schema):
    """Values that a schema allows, those at its bounds among them."""
    if "anyOf" in schema:
        return [value for member in schema["anyOf"] for value in inside(member)]
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])
    kind = schema["type"]
    if kind == "boolean":
        return [True, False]
    if kind == "null":
        return [None]
    whole = kind == "integer"
    step = schema.get("multipleOf", 1) if whole else 1e-3
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + step)
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1000 * step + step) - step)
    middle = [low + step, low + 2 * step, *([] if whole else [(low + high) / 2, 0.1, 0.5])]
    return [low, *[value for value in middle if low <= value <= high], high]


def outside(schema):
    """Values just outside the bounds."""
    members = schema.get("anyOf", [schema])
    values = [member["minimum"] - 1 for member in members if "minimum" in member]
    values += [member["maximum"] + 1 for member in members if "maximum" in member]
    return values + [member[key] for member in members for key in member if key.startswith("exclusive")]


def value_of(content, key):
    """The value at a dotted key."""
    section, _, name = key.partition(".")
    return content[section][name] if name else content[section]


def put(content, key, value):
    """Set a dotted key, if its section is a mapping."""
    section, _, name = key.rpartition(".")
    place = content.get(section) if section else content
    if isinstance(place, dict):
        place[name] = deepcopy(value)


def mutation(number):
    """A valid params.yaml, and a copy with one to three values changed."""
    draw = random.Random(number)
    sound = deepcopy(BASE)
    for key, value in draw.choice(STARTS * 4 + NETWORKS).items():
        put(sound, key, value)
    content = deepcopy(sound)
    for _ in range(draw.randint(1, 3)):
        mutate(content, draw)
    return sound, content


def mutate(content, draw):
    """Change one value, in five of six cases to one that its schema allows."""
    kind = draw.choice(["inside"] * 30 + ["junk", "outside", "transforms", "unknown", "removed", "section"])
    # The picture of the learning rates takes seconds, and nothing else depends on it.
    key = draw.choice(KEYS)
    if key.startswith("learning_rates."):
        key = draw.choice(KEYS)
    section, _, name = key.rpartition(".")
    if kind == "inside":
        put(content, key, draw.choice(FREE[key] if key in FREE else inside(schema_of(key))))
    elif kind == "outside":
        put(content, key, draw.choice(outside(schema_of(key)) or JUNK))
    elif kind == "junk":
        put(content, key, draw.choice(JUNK))
    elif kind == "transforms":
        put(content, "augment.transforms", draw.choice(TRANSFORMS))
    elif kind == "unknown":
        put(content, f"{key}s", 1)
    elif kind == "removed" and isinstance(content.get(section), dict):
        content[section].pop(name, None)
    elif kind == "section" and section:
        content.pop(section, None) if draw.random() < 0.5 else content.update({section: draw.choice(JUNK)})


class Workspace:
    """A folder in which all stages have run with valid parameters, from which each mutation starts."""

    def __init__(self, folder):
        self.folder, self.store = folder / "work", folder / "store"
        self.folder.mkdir()
        os.chdir(self.folder)
        write_photos(self.folder / "photos", 12)
        shutil.copytree("photos", "pair", ignore=shutil.ignore_patterns("red"))
        shutil.make_archive("pair", "zip", "pair")
        self.count = 0

    def start(self, sound):
        """Restore the outputs of valid parameters; the first time, run the stages."""
        for name in ("data", "results"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        saved = self.store / hashlib.sha256(repr(sound).encode()).hexdigest()
        if saved.exists():
            shutil.copytree(saved, self.folder, dirs_exist_ok=True)
            return
        self.write(sound)
        for stage in CHAIN:
            assert self.call(stage) == ""
        for name in ("data", "results"):
            shutil.copytree(self.folder / name, saved / name)

    @staticmethod
    def write(content):
        yaml = YAML()
        yaml.allow_unicode = True
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(content, file)

    def call(self, *command):
        """Run a command of the pipeline; return its error message, empty if there is none."""
        code = 0
        self.read()
        sys.argv = ["pipeline", *command]
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said = self.read()
        assert "Traceback" not in said.err
        if code == 0:
            return ""
        assert code == 1
        errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert errors, said.err
        assert errors == said.err.splitlines()[-len(errors) :]
        return "\n".join(line.removeprefix("error: ") for line in errors)

    def files(self):
        """The bytes of every file."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != "params.yaml")
        return {path: hashlib.blake2b(path.read_bytes()).digest() for path in paths}

    @staticmethod
    def stage_keys(content):
        """What decides whether a stage runs: its parameters in dvc.yaml and those of the stages before it.

        Another learning rate or another split seed does not change any shape: the stages after train run again only
        for another shape, or for their own parameters.
        """
        keys, before = {}, []
        for name, stage in CHAIN.items():
            own = [value_of(content, key) for key in stage.get("params", [])]
            keys[name] = repr([before, own])
            if name in ("download", "augment"):
                before = [*before, own]
            elif name == "train":
                before = [value_of(content, key) for key in SHAPES]
        return keys


def costs_time(params):
    """Whether the values are valid but would take long here."""
    return (
        params.train.epochs > 2
        or params.train.compile
        or params.model.pretrained
        or params.model.width > 16
        or max(params.augment.image_size, params.augment.store_size or 0) > 64
        or max(params.augment.views, params.augment.test_views) > 3
        or (params.evaluate.bootstrap or 0) > 1000
        or params.learning_rates.steps > 50
    )


@pytest.fixture
def work(tmp_path_factory, monkeypatch, capsys):
    """The workspace, with one worker and one thread."""
    monkeypatch.setattr(sys, "argv", ["pipeline"])
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    folder = Path.cwd()
    Workspace.read = staticmethod(capsys.readouterr)
    yield Workspace(tmp_path_factory.mktemp("mutations"))
    os.chdir(folder)


def one_step(params):
    """Open the trainer for the parameters, and take one step."""
    import torch

    from pipeline.common.dataset import PackedDataset
    from pipeline.common.paths import DATASET
    from pipeline.train.distributed import process_group
    from pipeline.train.stage import open_trainer

    device = torch.device("cpu")
    with process_group(device) as group:
        trainer, _ = open_trainer(PackedDataset(DATASET), params.model, params.train, params.seed, device, group)
        rows = torch.arange(4)
        trainer.train_step(*next(iter(trainer.train.load([(rows, torch.zeros_like(rows))]))))


def run_chain(work, sound, content):
    """Run the stages whose parameters changed, in order; return the first error."""
    work.count += 1
    before, now = work.stage_keys(sound), work.stage_keys(content)
    for stage in CHAIN:
        due = work.count % 25 == 0 if stage in NOW_AND_THEN else before[stage] != now[stage]
        if due and (complaint := work.call(stage)):
            return complaint
    return ""


def outcome(work, sound, content):
    """How a mutation ends; anything unexpected raises."""
    work.start(sound)
    work.write(content)
    before = work.files()
    if complaint := work.call("download"):
        assert work.files() == before
        if any(re.match(pattern, complaint) for pattern in DATA_ERRORS):
            return "data error"
        for line in complaint.splitlines():
            assert re.match(r"params\.yaml: (line \d+, column \d+|[\w.]+): .", line), line
            assert line.isprintable()
            assert len(line) < 1000, line
        assert work.call("train") == complaint
        assert work.files() == before
        return "refused"
    params = check_params(YAML(typ="safe", pure=True).load(Path("params.yaml")), Path("params.yaml"))
    if costs_time(params):
        unchanged = all(content[section] == sound[section] for section in ("data", "augment"))
        if unchanged and params.model.width <= 64 and not params.model.pretrained:
            one_step(params)
        return "valid but slow"
    if complaint := run_chain(work, sound, content):
        assert len(complaint.splitlines()) == 1
        assert any(re.match(pattern, complaint) for pattern in DATA_ERRORS), complaint
        return "data error"
    return "ran"


@pytest.mark.parametrize(
    "numbers", [pytest.param(range(12), id="some"), pytest.param(range(FIRST, END), id="all", marks=pytest.mark.slow)]
)
def test_every_mutation_runs_or_is_refused_in_one_line_before_any_work(work, numbers):
    outcomes, failures = Counter(), []
    for number in numbers:
        sound, content = mutation(number)
        try:
            outcomes[outcome(work, sound, content)] += 1
        except Exception:
            changed = [
                f"{section}.{key}: {value!r:.60}"
                for section, keys in content.items()
                if isinstance(keys, dict) and isinstance(BASE.get(section), dict)
                for key, value in keys.items()
                if repr(BASE[section].get(key)) != repr(value)
            ]
            failures.append(f"mutation {number}, {', '.join(changed)}:\n{traceback.format_exc(limit=-4)}")
    assert not failures, "\n".join(failures)
    assert outcomes["ran"] + outcomes["valid but slow"] >= len(numbers) / 2, outcomes
    assert outcomes["refused"] >= len(numbers) / 20, outcomes
