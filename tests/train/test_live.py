"""What others can read while training runs."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import LIVE
from pipeline.train.live import curves_of, live_curves, live_metrics
from tests.support.clones import SMALL, Clone

ROOT = Path(__file__).parents[2]
ROW = {"train_loss": 0.123456789, "train_gradient_norm": 1.5, "valid_accuracy": 0.75, "lr": 3e-5}
METRICS = Path("results/metrics/train.json")


@pytest.fixture
def repository(workspace):
    for command in (["git", "init", "-q"], ["git", "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*command[:1], "-c", "user.name=t", "-c", "user.email=t@localhost", *command[1:]], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    return workspace


def test_a_curve_is_named_by_its_split_first():
    assert list(curves_of(ROW)) == ["train/loss", "train/gradient_norm", "valid/accuracy", "lr"]


def test_an_epoch_is_a_row_of_each_curve_and_a_sign_for_the_extension(repository):
    sign = Path(".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED")
    signs = []
    with live_curves() as log:
        for epoch in (1, 2):
            log({"epoch": epoch, **ROW})
            signs.append(json.loads(sign.read_text())["step"])
    assert signs == [0, 1]
    assert not sign.exists()
    table = list(csv.DictReader((LIVE / "plots/metrics/train/gradient_norm.tsv").open(), delimiter="\t"))
    assert table == [{"step": "0", "gradient_norm": "1.5"}, {"step": "1", "gradient_norm": "1.5"}]
    # No stage's file but those of the curves is touched.
    assert not Path("dvc.yaml").exists()


def _log_many(epochs: int) -> None:
    with live_curves() as curves, live_metrics(METRICS) as metrics:
        for epoch in range(1, epochs + 1):
            metrics({"epochs": epoch, "words": "x" * 3000})
            curves({"epoch": epoch, **ROW})


@pytest.mark.slow
def test_a_reader_never_sees_half_a_row_or_half_the_metrics(repository):
    """Read as quickly as can be while a process writes; curves grow over several pages of the disk's cache."""
    writer = get_context("spawn").Process(target=_log_many, args=(400,))
    writer.start()
    read = set()
    while writer.is_alive():
        for curve in LIVE.rglob("*.tsv"):
            text = curve.read_text()
            # The very first reader may come between a file's making and its first row.
            assert text == "" or text.endswith("\n"), curve
            assert all(line.count("\t") == 1 for line in text.splitlines()), curve
        if METRICS.exists():
            read.add(json.loads(METRICS.read_text())["epochs"])
    assert writer.exitcode == 0
    assert len(read) > 20


@pytest.mark.parametrize("before", [None, '{"accuracy": 0.9}'])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_metrics_of_work_that_was_not_completed_do_not_stay(workspace, before, error):
    if before:
        METRICS.parent.mkdir(parents=True)
        METRICS.write_text(before)
    with pytest.raises(error), live_metrics(METRICS) as write:
        write({"epochs": 3})
        assert json.loads(METRICS.read_text()) == {"epochs": 3}
        raise error
    assert (METRICS.read_text() if METRICS.exists() else None) == before


def test_metrics_of_complete_work_stay(workspace):
    with live_metrics(METRICS) as write:
        write({"epochs": 0})
        write({"epochs": 1})
    assert json.loads(METRICS.read_text()) == {"epochs": 1}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with its dataset, and a training that is long enough to be watched."""
    clone = Clone(tmp_path_factory.mktemp("clone"), {**SMALL, "model.width": 4, "train.epochs": 2000})
    clone.run("dvc", "repro", "augment")
    clone.run("git", "add", "-A")
    clone.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "dataset")
    return clone


def told(clone: Clone, *command: str):
    """The JSON that a command prints; around it stand complaints on what later stages have not written yet."""
    output = clone.run(*command)
    start = re.search(r"^[\[{]", output, re.MULTILINE).start()
    return json.JSONDecoder().raw_decode(output, start)[0]


def live_rows(clone: Clone) -> dict[str, dict]:
    """The values of train.json of the workspace and of each experiment that runs, as ``dvc exp show`` has them."""
    workspace, *baselines = told(clone, "dvc", "exp", "show", "--json")
    states = {"workspace": workspace["data"]}
    for baseline in baselines:
        for experiment in baseline["experiments"] or []:
            if (experiment["executor"] or {}).get("state") == "running":
                states[experiment["name"]] = experiment["revs"][0]["data"]
    return {name: state["metrics"].get(str(METRICS), {}).get("data") or {} for name, state in states.items() if state}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "row"),
    [
        (["repro", "train"], "workspace"),
        (["exp", "run", "-n", "here", "train"], "here"),
        (["exp", "run", "--temp", "-n", "apart", "train"], "apart"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else None,
)
def test_exp_show_and_plots_show_a_training_that_runs(clone, command, row):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    user = {f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *command],
        cwd=clone.folder,
        env={**os.environ, "PATH": path, **user},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        seen: dict[int, float] = {}
        deadline = time.monotonic() + 240
        while len(seen) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            values = live_rows(clone).get(row, {})
            # The last commit's values until the stage begins.
            if 0 < values.get("epochs", 0) < 2000 and values["parameters"] != committed(clone)["parameters"]:
                seen[values["epochs"]] = values["valid_accuracy"]
        assert len(seen) == 3
        assert list(seen) == sorted(seen)
        assert all(0 < accuracy <= 1 for accuracy in seen.values())
        if row != "apart":
            plots = told(clone, "dvc", "plots", "show", "--json", "Loss")
            assert len(plots["data"]["Loss"][0]["content"]["data"]["values"]) >= 2 * max(seen)
            shown = told(clone, "dvc", "metrics", "show", "--json")
            assert shown[""]["data"][str(METRICS)]["data"]["epochs"] >= max(seen)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        clone.run("git", "checkout", "-q", "--", ".")


def committed(clone: Clone) -> dict:
    return told(clone, "git", "show", f"HEAD:{METRICS}")


def test_the_metrics_of_training_are_listed_once():
    """Were DVCLive's own file a metric too, every table would have each value twice."""
    workflow = YAML(typ="safe").load(ROOT / "dvc.yaml")
    assert "metrics" not in workflow
    assert [list(metric) for metric in workflow["stages"]["train"]["metrics"]] == [[str(METRICS)]]
