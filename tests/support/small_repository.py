"""A DVC repository with one quick stage in place of evaluate, which writes the same files as the real one."""

import os
import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path
from typing import Self

import pandas as pd

ROOT = Path(__file__).parents[2]
PARAMS = (ROOT / "params.yaml").read_text("utf-8")
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost")

# Right with the probability train.lr, drawn with the seed; 40 images of two classes.
STAGE = """
import json, random
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))
skill, draw = float(params["train"]["lr"]), random.Random(params["seed"])
print(f"evaluate: seed {params['seed']}", flush=True)
if skill > 2 and params["seed"] == 2:
    raise SystemExit("error: params.yaml: a message of the stage")
rows = ["id,source,label,class,predicted,predicted_class,correct,confidence,loss,p_a,p_b"]
right = [draw.random() < skill for _ in range(40)]
for number, hit in enumerate(right):
    label, predicted = number % 2, (number + (not hit)) % 2
    answer = f"{label},{'ab'[label]},{predicted},{'ab'[predicted]},{hit:d}"
    rows.append(f"{number:04},test/{number}.png,{answer},1,{1 - hit},0,1")
texts = {
    "evaluation/predictions.csv": "\\n".join(rows),
    "metrics/evaluate.json": json.dumps({"accuracy": sum(right) / 40}),
    "metrics/train.json": json.dumps({"valid_accuracy": 1}),
    "details/evaluate.json": json.dumps({"split": params["evaluate"]["split"]}),
}
for name, text in texts.items():
    Path("results", name).parent.mkdir(parents=True, exist_ok=True)
    Path("results", name).write_text(text)
"""
WORKFLOW = """
stages:
  evaluate:
    cmd: python code/stage.py
    deps: [code/stage.py]
    params: [seed, train.lr, train.epochs, evaluate.split]
    outs: [results/evaluation]
    metrics:
      - results/metrics/evaluate.json: {cache: false}
      - results/metrics/train.json: {cache: false}
"""
# No stage depends on pipeline/report.
STAGES = """
stages:
  download: {cmd: echo, deps: [pipeline/common, pipeline/download]}
  augment: {cmd: echo, deps: [pipeline/common, pipeline/augment]}
  pretrained: {cmd: echo, deps: [pipeline/common, pipeline/pretrained]}
  train: {cmd: echo, deps: [pipeline/common, pipeline/train]}
  evaluate:
    cmd: python pipeline/evaluate/stage.py
    deps: [pipeline/common, pipeline/evaluate]
    params: [seed, train.lr, evaluate.split]
    outs: [results/evaluation, results/details/evaluate.json]
    metrics:
      - results/metrics/evaluate.json: {cache: false}
      - results/metrics/train.json: {cache: false}
"""


class SmallRepository:
    """The repository, with one commit in which nothing has run yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write_files()
        self.git("init", "-q", "-b", "main")
        self.dvc("init", "-q")
        # Without a network these only cost time.
        self.write(".dvc/config", "[core]\n    analytics = false\n    check_update = false\n")
        self.commit("first")

    def write_files(self) -> None:
        self.write("params.yaml", PARAMS)
        self.write("dvc.yaml", WORKFLOW)
        self.write("code/stage.py", STAGE)
        self.write(".gitignore", "results/*\n!results/metrics\n")

    def copy_to(self, folder: Path) -> Self:
        """A copy of the whole repository, with the experiments and the cache of DVC."""
        shutil.copytree(self.folder, folder, symlinks=True)
        repository = copy(self)
        repository.folder = folder
        return repository

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, "utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text("utf-8")
        assert old in text
        self.write(path, text.replace(old, new))

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # python -m pipeline runs the package of this project, not the folder of that name here.
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(self, *command: str) -> str:
        result = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", *IDENTITY, *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "-q", "-m", message)

    def experiments(self) -> list[str]:
        return self.git("for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps/*/*/*").split()


class StagesRepository(SmallRepository):
    """The repository with the stages of the pipeline in dvc.yaml, each with a folder of code."""

    def write_files(self) -> None:
        super().write_files()
        self.write("dvc.yaml", STAGES)
        for name in ("common", "download", "augment", "pretrained", "train", "report"):
            self.write(f"pipeline/{name}/stage.py", "")
        self.write("pipeline/evaluate/stage.py", STAGE)
        self.write("README.md", "A small repository.\n")
        self.write(".gitignore", "results/*\n!results/metrics\n.sweeps/\n")

    def trials(self) -> pd.DataFrame:
        """The table of the only sweep, without its times."""
        (path,) = self.folder.glob(".sweeps/*/trials.csv")
        return pd.read_csv(path).drop(columns="seconds")
