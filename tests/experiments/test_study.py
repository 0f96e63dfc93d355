"""The next trial depends only on the file of the sweep and the finished trials."""

import math

import pytest
from optuna.trial import TrialState

from pipeline.errors import PipelineError
from pipeline.experiments.study import Outcome, Study
from pipeline.experiments.sweep_file import Halving, Median, Plain, Range, Sweep, Tpe

SPACE = {
    "train.lr": Range(low=1e-4, high=1e-1, log=True),
    "train.optimizer": ("sgd", "adam"),
    "train.warmup_epochs": Range(low=0.0, high=3.0, step=0.5),
    "model.width": Range(low=4, high=32, step=4),
}
EPOCHS = 6
SAMPLERS = {"tpe": Tpe(name="tpe", startup_trials=4), "random": Plain(name="random"), "grid": Plain(name="grid")}
PRUNERS = {
    "none": Plain(name="none"),
    "median": Median(name="median", startup_trials=2, warmup_epochs=1),
    "successive_halving": Halving(name="successive_halving"),
    "hyperband": Halving(name="hyperband"),
}


def sweep_of(sampler="tpe", pruner="median", seed=1, space=SPACE):
    if sampler == "grid":
        space = {name: dimension for name, dimension in space.items() if name != "train.lr"}
    return Sweep(seed=seed, sampler=SAMPLERS[sampler], pruner=PRUNERS[pruner], space=space)


def accuracy(parameters, epoch):
    """Best at lr 0.01 and width 32 with adam; it rises with the epochs."""
    distance = abs(math.log10(parameters.get("train.lr", 0.01)) + 2) + (parameters["train.optimizer"] == "sgd")
    return (1 - 0.2 * distance + 0.001 * parameters["model.width"]) * (1 - 0.5**epoch)


def run(study, trials):
    """Run trials until there are so many; those with a width of 8 or less fail."""
    while len(study.trials) < trials:
        trial = study.ask()
        if trial.parameters["model.width"] <= 8:
            study.tell(trial, Outcome(TrialState.FAIL, facts={"reason": "narrow"}))
            continue
        for epoch in range(1, EPOCHS + 1):
            if trial.report(accuracy(trial.parameters, epoch), last=epoch == EPOCHS):
                break
        study.tell(trial, Outcome(TrialState.PRUNED if trial.pruned else TrialState.COMPLETE, trial.value))


def shown(study):
    return [
        (trial.params, trial.state, trial.value, trial.intermediate_values, trial.user_attrs) for trial in study.trials
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_an_interrupted_sweep_tries_and_prunes_the_same_as_an_uninterrupted_one(tmp_path, sampler, pruner):
    whole = Study(tmp_path / "whole/journal.log", "name", sweep_of(sampler, pruner), EPOCHS)
    run(whole, 20)
    for trials in (1, 7, 8, 20):
        pieces = Study(tmp_path / "pieces/journal.log", "name", sweep_of(sampler, pruner), EPOCHS)
        abandoned = pieces.ask()
        abandoned.report(0.0, last=False)
        run(pieces, trials)
    assert shown(pieces) == shown(whole)
    states = {trial.state.name for trial in whole.trials}
    assert states >= {"COMPLETE", "FAIL"}
    assert ("PRUNED" in states) == (pruner != "none")


def test_another_seed_tries_others(tmp_path):
    studies = [Study(tmp_path / f"{seed}/journal.log", "name", sweep_of(seed=seed), EPOCHS) for seed in (1, 2)]
    assert studies[0].ask().parameters != studies[1].ask().parameters


def test_tpe_improves_and_avoids_what_fails(tmp_path):
    study = Study(tmp_path / "journal.log", "name", sweep_of("tpe", "none"), EPOCHS)
    run(study, 40)
    values = [trial.value for trial in study.trials if trial.value is not None]
    assert sum(values[-10:]) / 10 > sum(values[:10]) / 10
    failed = [trial.value is None for trial in study.trials]
    assert sum(failed[20:]) <= 2
    assert next(iter(study.importances())) in ("train.lr", "train.optimizer")
    assert sum(study.importances().values()) == pytest.approx(1)


def test_a_grid_tries_each_point_once_in_an_order_of_its_seed(tmp_path):
    space = {"train.optimizer": ("sgd", "adam", None), "model.width": Range(low=4, high=16, step=4)}
    orders = []
    for seed in (1, 2):
        study = Study(tmp_path / f"{seed}/journal.log", "name", sweep_of("grid", "none", seed, space), EPOCHS)
        assert study.size == 12
        while len(study.trials) < study.size:
            study.tell(study.ask(), Outcome(TrialState.COMPLETE, 0.5))
        orders.append([tuple(trial.params.values()) for trial in study.trials])
    assert set(orders[0]) == {(name, width) for name in ("sgd", "adam", None) for width in (4, 8, 12, 16)}
    assert orders[0] != orders[1]


def test_values_are_short_and_within_their_range(tmp_path):
    space = {
        "train.lr": Range(low=0.00012345678, high=0.00012345679),
        "train.weight_decay": Range(low=1e-6, high=1e-2, log=True),
        "train.hflip": Range(low=0.1, high=0.7, step=0.2),
        "model.width": Range(low=1, high=64, log=True),
    }
    study = Study(tmp_path / "journal.log", "name", sweep_of("random", "none", space=space), EPOCHS)
    for _ in range(30):
        trial = study.ask()
        assert 0.00012345678 <= trial.parameters["train.lr"] <= 0.00012345679
        assert len(f"{trial.parameters['train.weight_decay']:e}".split("e")[0].rstrip("0")) <= 5
        assert trial.parameters["train.hflip"] in (0.1, 0.3, 0.5, 0.7)
        assert isinstance(trial.parameters["model.width"], int)
        study.tell(trial, Outcome(TrialState.COMPLETE, 0.5))
    assert study.importances() == {}


def test_no_trial_is_pruned_in_warm_up_nor_in_its_last_epoch(tmp_path):
    study = Study(tmp_path / "journal.log", "name", sweep_of(), EPOCHS)
    for _ in range(2):
        trial = study.ask()
        for epoch in range(1, EPOCHS + 1):
            trial.report(0.9, last=epoch == EPOCHS)
        study.tell(trial, Outcome(TrialState.COMPLETE, 0.9))
    hopeless = study.ask()
    assert [hopeless.report(0.1, last=False) for _ in range(2)] == [False, True]
    late = study.ask()
    assert not any(late.report(0.9, last=False) for _ in range(EPOCHS - 1))
    assert not late.report(0.1, last=True)


@pytest.mark.parametrize("torn", [b'{"op_code":4,"worker', b"\x00"])
def test_a_journal_is_repaired_after_a_kill(tmp_path, torn):
    path = tmp_path / "journal.log"
    study = Study(path, "name", sweep_of(), EPOCHS)
    run(study, 3)
    with path.open("ab") as file:
        file.write(torn)
    path.with_name("journal.log.lock").symlink_to(path)
    again = Study(path, "name", sweep_of(), EPOCHS)
    assert shown(again) == shown(study)
    run(again, 4)
    assert len(Study(path, "name", sweep_of(), EPOCHS).trials) == 4


def test_a_file_that_is_not_a_journal_is_one_line(tmp_path):
    path = tmp_path / "journal.log"
    path.write_text("what?\nnothing\n")
    with pytest.raises(PipelineError, match=r"journal.log: is not a journal of Optuna .*; remove the folder "):
        Study(path, "name", sweep_of(), EPOCHS)
