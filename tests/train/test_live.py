"""What other programs can read while training runs."""

import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common.paths import LIVE
from pipeline.train.live import curve_values, live_curves, live_metrics, live_results
from tests.support.clones import Workspace
from tests.support.trainers import build

ROOT = Path(__file__).parents[2]
ROW = {"train_loss": 0.123456789, "train_gradient_norm": 1.5, "valid_accuracy": 0.75, "lr": 3e-5}
METRICS = Path("results/metrics/train.json")
FORK = multiprocessing.get_context("fork")
PUBLISHED = {"best_epoch", "train_loss", "valid_loss", "valid_accuracy"}


@pytest.fixture
def repository(workspace):
    for command in (["git", "init", "-q"], ["git", "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*command[:1], "-c", "user.name=t", "-c", "user.email=t@localhost", *command[1:]], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    return workspace


def test_name_of_a_curve_starts_with_its_split():
    assert list(curve_values(ROW)) == ["train/loss", "train/gradient_norm", "valid/accuracy", "lr"]


def test_epoch_is_one_row_of_each_curve_and_is_signalled_to_the_extension(repository):
    signal_file = Path(".dvc/tmp/exps/run/DVCLIVE_STEP_COMPLETED")
    signals = []
    with live_curves() as log:
        for epoch in (1, 2):
            log({"epoch": epoch, **ROW})
            signals.append(json.loads(signal_file.read_text())["step"])
    assert signals == [0, 1]
    assert not signal_file.exists()
    table = list(csv.DictReader((LIVE / "plots/metrics/train/gradient_norm.tsv").open(), delimiter="\t"))
    assert table == [{"step": "0", "gradient_norm": "1.5"}, {"step": "1", "gradient_norm": "1.5"}]
    assert not Path("dvc.yaml").exists()


def _log_epochs(epochs: int) -> None:
    with live_curves() as curves, live_metrics(METRICS) as metrics:
        for epoch in range(1, epochs + 1):
            metrics({"epochs": epoch, "padding": "x" * 3000})
            curves({"epoch": epoch, **ROW})


def test_reader_never_sees_an_incomplete_row_or_incomplete_metrics(repository):
    """Read all the time while a process writes; the curves fill several pages of the disk cache."""
    writer = FORK.Process(target=_log_epochs, args=(400,))
    writer.start()
    read = set()
    while writer.is_alive():
        for curve in LIVE.rglob("*.tsv"):
            text = curve.read_text()
            # The file is empty between its creation and its first row.
            assert text == "" or text.endswith("\n"), curve
            assert all(line.count("\t") == 1 for line in text.splitlines()), curve
        if METRICS.exists():
            read.add(json.loads(METRICS.read_text())["epochs"])
    assert writer.exitcode == 0
    assert len(read) > 20


@pytest.mark.parametrize("before", [None, '{"accuracy": 0.9}'])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_metrics_of_an_incomplete_run_are_taken_back(workspace, before, error):
    if before:
        METRICS.parent.mkdir(parents=True)
        METRICS.write_text(before)
    with pytest.raises(error), live_metrics(METRICS) as write:
        write({"best_epoch": 3})
        assert json.loads(METRICS.read_text()) == {"best_epoch": 3}
        raise error
    assert (METRICS.read_text() if METRICS.exists() else None) == before


def test_metrics_of_a_complete_run_are_kept(workspace):
    with live_metrics(METRICS) as write:
        write({"best_epoch": 1})
        write({"best_epoch": 2})
    assert json.loads(METRICS.read_text()) == {"best_epoch": 2}


def test_dvc_shows_the_metrics_and_the_curves_of_each_epoch_while_it_trains(repository, tmp_path):
    workflow = YAML(typ="safe").load(ROOT / "dvc.yaml")
    loss = next(plot for plot in workflow["plots"] if "Loss" in plot)
    stages = {"train": {"cmd": "true", "metrics": [{str(METRICS): {"cache": False}}]}}
    Path("dvc.yaml").write_text(json.dumps({"stages": stages, "plots": [loss]}))
    trainer = build(tmp_path, epochs=2)
    shown = []
    with live_results(trainer, "train-0123456", {}) as publish:

        def on_epoch(row):
            publish()
            shown.append(json_of("metrics", "show")[""]["data"][str(METRICS)]["data"])

        trainer.fit(lambda: None, on_epoch)
        points = json_of("plots", "show", "Loss")["data"]["Loss"][0]["content"]["data"]["values"]
    assert len(points) == 2 * 2
    assert all(set(values) == PUBLISHED for values in shown)
    best = trainer.history.best
    assert shown[-1] == {name: pytest.approx(best[name.replace("best_", "")], abs=1e-6) for name in PUBLISHED}


def json_of(*command: str):
    """The JSON that a command of DVC prints."""
    command = [sys.executable, "-m", "dvc", *command, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def clone(tmp_path_factory, origin):
    """A clone whose training is long enough to be watched."""
    clone = origin.clone_with_cache(tmp_path_factory.mktemp("clone") / "clone")
    clone.change({"model.width": 4, "train.epochs": 2000})
    clone.commit("long training")
    return clone


def parsed(clone: Workspace, *command: str):
    """The JSON that a command prints, without the warnings about outputs of later stages."""
    output = clone.run(*command)
    start = re.search(r"^[\[{]", output, re.MULTILINE).start()
    return json.JSONDecoder().raw_decode(output, start)[0]


def running_metrics(clone: Workspace) -> dict[str, dict]:
    """The values of train.json of the workspace and of each running experiment, from ``dvc exp show``."""
    workspace, *baselines = parsed(clone, "dvc", "exp", "show", "--json")
    states = {"workspace": workspace["data"]}
    for baseline in baselines:
        for experiment in baseline["experiments"] or []:
            if (experiment["executor"] or {}).get("state") == "running":
                states[experiment["name"]] = experiment["revs"][0]["data"]
    return {name: state["metrics"].get(str(METRICS), {}).get("data") or {} for name, state in states.items() if state}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["repro", "train"], "workspace"),
        (["exp", "run", "-n", "here", "train"], "here"),
        (["exp", "run", "--temp", "-n", "apart", "train"], "apart"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else None,
)
def test_exp_show_and_plots_show_the_epochs_of_a_running_training(clone, command, name):
    user = {f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *command],
        cwd=clone.folder,
        env=clone.variables(**user),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    committed = parsed(clone, "git", "show", f"HEAD:{METRICS}")
    try:
        seen: dict[int, float] = {}
        deadline = time.monotonic() + 240
        while len(seen) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            values = running_metrics(clone).get(name, {})
            # Until the stage starts, they are those of the last commit.
            if values and values != committed:
                seen[values["best_epoch"]] = values["valid_loss"]
        assert len(seen) == 3
        assert list(seen) == sorted(seen)
        if name != "apart":
            plots = parsed(clone, "dvc", "plots", "show", "--json", "Loss")
            assert len(plots["data"]["Loss"][0]["content"]["data"]["values"]) >= 2 * max(seen)
            shown = parsed(clone, "dvc", "metrics", "show", "--json")
            assert shown[""]["data"][str(METRICS)]["data"]["best_epoch"] >= max(seen)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        clone.undo_changes()


def test_metrics_of_training_are_listed_once():
    """If the file of DVCLive were a metric, too, each table would have every value twice."""
    workflow = YAML(typ="safe").load(ROOT / "dvc.yaml")
    assert "metrics" not in workflow
    assert [list(metric) for metric in workflow["stages"]["train"]["metrics"]] == [[str(METRICS)]]
