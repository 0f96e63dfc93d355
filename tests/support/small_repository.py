"""A repository of DVC with one quick stage in the place of evaluate, which writes what the real one does."""

import os
import subprocess
import sys
from pathlib import Path

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text("utf-8")
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost")

# Right with the probability train.lr, drawn with the seed; 40 images of two classes.
STAGE = """
import json, random
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))
skill, draw = float(params["train"]["lr"]), random.Random(params["seed"])
print(f"evaluate: seed {params['seed']}", flush=True)
if params["train"]["epochs"] == "abc" or (skill > 2 and params["seed"] == 2):
    raise SystemExit("error: params.yaml: what a stage says")
rows = ["id,source,label,class,predicted,predicted_class,correct,confidence,loss,p_0,p_1"]
right = [draw.random() < skill for _ in range(40)]
for number, hit in enumerate(right):
    label, predicted = number % 2, (number + (not hit)) % 2
    answer = f"{label},{'ab'[label]},{predicted},{'ab'[predicted]},{hit:d}"
    rows.append(f"{number:04},test/{number}.png,{answer},1,{1 - hit},0,1")
for folder in ("evaluation", "metrics"):
    Path("results", folder).mkdir(parents=True, exist_ok=True)
Path("results/evaluation/predictions.csv").write_text("\\n".join(rows))
evaluate = {"split": params["evaluate"]["split"], "accuracy": sum(right) / 40}
for stage, values in {"evaluate": evaluate, "train": {"valid_accuracy": 1}}.items():
    Path(f"results/metrics/{stage}.json").write_text(json.dumps(values))
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


class SmallRepository:
    """The repository, with one commit in which nothing has run yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("params.yaml", PARAMS)
        self.write("dvc.yaml", WORKFLOW)
        self.write("code/stage.py", STAGE)
        self.write(".gitignore", "results/*\n!results/metrics\n")
        self.git("init", "-q", "-b", "main")
        self.dvc("init", "-q")
        # Without a network these only cost time.
        self.write(".dvc/config", "[core]\n    analytics = false\n    check_update = false\n")
        self.commit("first")

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, "utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text("utf-8")
        assert old in text
        self.write(path, text.replace(old, new))

    def run(self, *command: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            command, cwd=self.folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
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
        return self.git("for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
