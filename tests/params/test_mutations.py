"""Parameters never surprise: whatever params.yaml says, a run works or is refused in one clear line before any work.

500 random mutations of a small params.yaml, through the commands of all stages, in this process. As with DVC only the
stages run whose parameters are not those of the run before. More of them, with other seeds, by hand:

    PIPELINE_MUTATIONS=5000 pytest tests/params/test_mutations.py
"""

import hashlib
import os
import re
import shutil
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.params.file import check_params
from pipeline.params.schema import Params
from tests.stages.conftest import AUGMENT, DATA, EVALUATE, MODEL, TRAIN, TSNE, write_photos

ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("PIPELINE_MUTATIONS", "500"))
CHAIN = {name: stage for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()}
BASE = {
    "seed": 1,
    "data": {**DATA, "classes": None},
    "augment": {**AUGMENT, "views": 1, "test_views": 1},
    "model": MODEL,
    "train": {**TRAIN, "epochs": 2, "precision": "fp32"},
    "evaluate": EVALUATE,
    "tsne": {**TSNE, "perplexity": 3.0},
    "predict": {"split": "auto", "tta": False},
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
# Where another network, loss or source begins: changes that only go together.
STARTS = [
    {},
    {"data.location": "pair", "train.loss": "bce"},
    {"train.schedule": "onecycle", "train.warmup_epochs": 0.5},
    {"evaluate.tta": True, "predict.tta": True},
    {"data.source": "archive", "data.location": "pair.zip"},
]
NETWORKS = [
    {"model.name": "squeezenet1_1", "tsne.layers": ["features.3"]},
    {"model.name": "resnet18", "model.stem": "small", "tsne.layers": ["layer1", "fc"]},
    {"model.name": "mobilenet_v3_small", "tsne.layers": ["avgpool"], "train.optimizer": "muon"},
]
# They take seconds, and read the same parameters in the same way every time.
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
# What only the images or the machine can tell.
TOLD_BY_THE_DATA = [
    r"train: the loss is (nan|inf|-inf) in step",
    r"results/model.safetensors: gives no finite output",
    r"results/model.safetensors: .* gives values that are infinite",
    r"params.yaml: evaluate.top_k: got \d+, allowed with [23] classes",
    r"params.yaml: train.loss: got bce, which needs 2 classes, not 3",
    r"params.yaml: train.precision: got fp16, which the CPU is slow in",
    r"data.location: the (folder|archive) ",
    r"pair(.zip)?: the folder ",
    r"photos: the folder ",
    r"data: class \d has \d+ images",
    r"data/dataset: has no test split",
    r"data/dataset: the \w+ split has \d images, t-SNE needs 5",
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
    """Values just beyond the bounds."""
    members = schema.get("anyOf", [schema])
    values = [member["minimum"] - 1 for member in members if "minimum" in member]
    values += [member["maximum"] + 1 for member in members if "maximum" in member]
    return values + [member[key] for member in members for key in member if key.startswith("exclusive")]


def put(content, key, value):
    """Set a dotted key; a section that is gone or no mapping stays so."""
    section, _, name = key.rpartition(".")
    place = content.get(section) if section else content
    if isinstance(place, dict):
        place[name] = deepcopy(value)


@st.composite
def mutations(draw):
    """A whole params.yaml: one to three values of a sound one are changed."""
    content = deepcopy(BASE)
    start = draw(st.sampled_from(STARTS * 4 + NETWORKS))
    for key, value in start.items():
        put(content, key, value)
    kinds = st.sampled_from(["inside"] * 9 + ["junk", "outside", "transforms", "unknown", "removed", "section"])
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(kinds)
        # The picture of the learning rates takes seconds, and nothing else depends on it.
        keys = KEYS if draw(st.integers(0, 3)) == 0 else [key for key in KEYS if not key.startswith("learning_rates")]
        key = draw(st.sampled_from(keys))
        section, _, name = key.rpartition(".")
        if kind == "inside":
            put(content, key, draw(st.sampled_from(FREE[key] if key in FREE else inside(schema_of(key)))))
        elif kind == "outside":
            put(content, key, draw(st.sampled_from(outside(schema_of(key)) or JUNK)))
        elif kind == "junk":
            put(content, key, draw(st.sampled_from(JUNK)))
        elif kind == "transforms":
            put(content, "augment.transforms", draw(st.sampled_from(TRANSFORMS)))
        elif kind == "unknown":
            put(content, f"{section}.{name}s" if section else f"{name}s", 1)
        elif kind == "removed" and isinstance(content.get(section), dict):
            content[section].pop(name, None)
        elif kind == "section":
            content.pop(section, None) if draw(st.booleans()) else content.update(
                {section: draw(st.sampled_from(JUNK))}
            )
    return content


class Workspace:
    """A folder in which the chain has run once with sound parameters; each mutation starts from there."""

    def __init__(self, folder):
        self.folder, self.saved = folder / "work", folder / "saved"
        self.folder.mkdir()
        os.chdir(self.folder)
        write_photos(self.folder / "photos", 10)
        shutil.copytree("photos", "pair", ignore=shutil.ignore_patterns("red"))
        shutil.make_archive("pair", "zip", "pair")
        self.write(BASE)
        for stage in CHAIN:
            assert self.call(stage) == ""
        shutil.copytree(self.folder, self.saved)
        self.keys = self.stage_keys(BASE)
        self.count = 0

    @staticmethod
    def write(content):
        yaml = YAML()
        yaml.allow_unicode = True
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(content, file)

    def call(self, *command):
        """Run a command of the pipeline; give what it complains of, and nothing where it has none."""
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

    def restore(self):
        shutil.rmtree(self.folder / "data")
        shutil.rmtree(self.folder / "results")
        for name in ("data", "results"):
            shutil.copytree(self.saved / name, self.folder / name)

    @staticmethod
    def stage_keys(content):
        """What each stage's outputs depend on, as dvc.yaml has it.

        Weights that another learning rate gave are of no other shape: what follows train runs again for another
        network, loss or dataset, and for its own parameters.
        """
        keys, before = {}, []
        for name, stage in CHAIN.items():
            own = []
            for key in stage.get("params", []):
                section, _, inner = key.partition(".")
                own.append(content[section][inner] if inner else content[section])
            keys[name] = repr([before, own])
            if name in ("download", "augment"):
                before = [*before, own]
            elif name == "train":
                before = [*before, content["model"], content["train"]["loss"]]
        return keys


def costs_time(params):
    """Whether the values are sound, but would only take long here."""
    return (
        params.train.epochs > 2
        or params.train.compile
        or params.model.pretrained
        or params.model.width > 16
        or params.augment.image_size > 64
        or max(params.augment.views, params.augment.test_views) > 3
        or (params.evaluate.bootstrap or 0) > 1000
        or params.learning_rates.steps > 50
    )


@pytest.fixture(scope="module")
def outcomes():
    """How the mutations ended."""
    return Counter()


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
    """Open the trainer that such parameters ask for, and take a step."""
    import torch

    from pipeline.distributed import process_group
    from pipeline.packed import PackedDataset
    from pipeline.paths import DATASET
    from pipeline.stages.train import open_trainer

    device = torch.device("cpu")
    with process_group(device) as group:
        trainer, _ = open_trainer(PackedDataset(DATASET), params.model, params.train, params.seed, device, group)
        rows = torch.arange(4)
        trainer.train_step(*next(iter(trainer.train.load([(rows, torch.zeros_like(rows))]))))


def run_chain(work, content):
    """Run the stages whose parameters changed, in order; give the first complaint."""
    work.count += 1
    keys = work.stage_keys(content)
    for stage in CHAIN:
        due = work.count % 25 == 0 if stage in NOW_AND_THEN else keys[stage] != work.keys[stage]
        if due and (complaint := work.call(stage)):
            return complaint
    return ""


@pytest.mark.slow
def test_every_mutation_runs_or_is_refused_in_one_line_before_any_work(work, outcomes):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES == 500,
        database=None,
        # To shrink a failure takes minutes; what was mutated says enough.
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations())
    def check(content):
        work.write(content)
        before = work.files()
        if complaint := work.call("download"):
            assert work.files() == before
            if any(re.match(pattern, complaint) for pattern in TOLD_BY_THE_DATA):
                outcomes["told by the data"] += 1
                return
            outcomes["refused"] += 1
            for line in complaint.splitlines():
                assert re.match(r"params\.yaml: [\w.]+: .", line), line
                assert line.isprintable()
                assert len(line) < 1000, line
            assert work.call("train") == complaint
            assert work.files() == before
            return
        params = check_params(YAML(typ="safe", pure=True).load(Path("params.yaml")), Path("params.yaml"))
        try:
            if costs_time(params):
                outcomes["sound but slow"] += 1
                if params.model.width <= 64 and not params.model.pretrained and params.train.loss != "bce":
                    work.restore()
                    if params.train.precision != "fp16" and params.model.name == "classifier":
                        one_step(params)
            elif complaint := run_chain(work, content):
                assert len(complaint.splitlines()) == 1
                assert any(re.match(pattern, complaint) for pattern in TOLD_BY_THE_DATA), complaint
                outcomes["told by the data"] += 1
            else:
                outcomes["ran"] += 1
        finally:
            work.restore()

    check()
    print(outcomes)
    assert outcomes["ran"] + outcomes["sound but slow"] >= EXAMPLES / 2
    assert outcomes["refused"] >= EXAMPLES / 10
