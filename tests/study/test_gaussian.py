"""What the Gaussian processes learn from a search, and that they learn it from ratios."""

from __future__ import annotations

import math
import statistics

import optuna
import pytest

from src.study.gaussian import GaussianProcess


def smallest(make: object, seed: int, trials: int = 24) -> float:
    """Bytes of the best within the budget: a network whose error grows as it shrinks, and a setting that is noise."""
    study = optuna.create_study()
    best = math.inf
    for number in range(trials):
        study.sampler = make(seed=100 * seed + number)  # type: ignore[operator]
        trial = study.ask()
        keeps = [trial.suggest_float(f"keeps_{each}", 0.05, 1.0, log=True) for each in range(3)]
        trial.suggest_float("rate", 0.1, 1.0)
        bits = trial.suggest_int("bits", 2, 8)
        coded = trial.suggest_categorical("coded", [True, False])
        size = 1_000_000 * math.prod(keeps) * bits / 8 * (0.8 if coded else 1.0)
        error = 0.01 + 0.001 * math.fsum(0.1 / keep for keep in keeps) + 0.02 * 4.0**-bits
        trial.set_constraint("error", math.log(error / 0.013))
        study.tell(trial, size)
        if error <= 0.013:
            best = min(best, size)
    return best


def gaussian(seed: int) -> GaussianProcess:
    return GaussianProcess(seed=seed, startup=6, most=200)


def test_it_finds_smaller_files_than_chance() -> None:
    found = statistics.median(smallest(gaussian, seed) for seed in range(3))
    chance = statistics.median(smallest(optuna.samplers.RandomSampler, seed) for seed in range(3))
    assert found < chance / 1.5


def test_the_same_trials_and_seed_make_the_same_choice() -> None:
    assert smallest(gaussian, 1, trials=9) == smallest(gaussian, 1, trials=9)


def test_chance_goes_first_and_what_failed_is_not_learned_from() -> None:
    study = optuna.create_study(sampler=gaussian(0))
    for _ in range(5):
        study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), state=optuna.trial.TrialState.FAIL)
    trial = study.get_trials()[0]
    assert study.sampler.infer_relative_search_space(study, trial) == {}
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 2.0)
    assert list(study.sampler.infer_relative_search_space(study, trial)) == ["x"]


def test_trials_in_work_are_reckoned_with() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=gaussian(0))
    for x in (0.0, 0.1, 0.5, 0.75, 0.9, 1.0):
        study.add_trial(optuna.trial.create_trial(params={"x": x}, distributions=space, value=1 + (x - 0.3) ** 2))
    first, second = study.ask(space), study.ask(space)
    assert second.params["x"] != pytest.approx(first.params["x"], abs=1e-3)


def test_two_objectives_of_which_one_is_an_accuracy() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    study = optuna.create_study(directions=["minimize", "maximize"])
    for number in range(12):
        study.sampler = gaussian(number)
        trial = study.ask(space)
        study.tell(trial, [10 ** (6 * trial.params["x"]), 0.9 + 0.1 * trial.params["x"]])
    ends = sorted(trial.params["x"] for trial in study.best_trials)
    assert ends[0] < 0.1
    assert ends[-1] > 0.9
