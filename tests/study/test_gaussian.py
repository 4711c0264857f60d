"""What the Gaussian processes learn from a search, and that they learn it from ratios."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import optuna
import pytest
from optuna.trial import TrialState, create_trial

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
    return GaussianProcess(seed=seed, startup=6, most=100)


@pytest.mark.slow
def test_it_finds_smaller_files_than_random_search() -> None:
    found = statistics.median(smallest(gaussian, seed) for seed in range(3))
    chance = statistics.median(smallest(optuna.samplers.RandomSampler, seed) for seed in range(3))
    assert found < chance / 1.5


X = {"x": optuna.distributions.FloatDistribution(0, 1)}


def study_of(values: dict[float, float], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    study = optuna.create_study(sampler=sampler)
    study.add_trials([create_trial(params={"x": x}, distributions=X, value=value) for x, value in values.items()])
    return study


VALLEY = {x: 1 + 100 * (x - 0.3) ** 2 for x in (0.0, 0.1, 0.5, 0.75, 0.9, 1.0)}


def test_it_chooses_by_ratios() -> None:
    squares = {x: value**2 for x, value in VALLEY.items()}
    chosen = study_of(VALLEY, gaussian(0)).ask(X).params["x"]
    assert study_of(squares, gaussian(0)).ask(X).params["x"] == pytest.approx(chosen, abs=1e-3)
    assert 0.1 < chosen < 0.5


def test_the_same_trials_and_seed_make_the_same_choice() -> None:
    first, second = (study_of(VALLEY, gaussian(3)).ask(X).params for _ in range(2))
    assert first == second


def test_the_first_trials_are_random() -> None:
    study = optuna.create_study(sampler=gaussian(0))
    for number in range(6):
        trial = study.ask(X)
        assert study.sampler.infer_relative_search_space(study, study.get_trials()[-1]) == {}
        study.tell(trial, float(number))
    assert study.sampler.infer_relative_search_space(study, study.get_trials()[-1]) == X


def test_it_does_not_return_to_where_trials_failed() -> None:
    study = study_of({x: 1 - x for x in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}, gaussian(0))
    chosen = []
    for seed in range(4):
        study.sampler = gaussian(seed)
        trial = study.ask(X)
        chosen.append(trial.params["x"])
        failed = trial.params["x"] > 0.8
        study.tell(trial, None if failed else 1 - trial.params["x"], state=TrialState.FAIL if failed else None)
    assert chosen[0] > 0.8
    assert min(abs(a - b) for a, b in pairwise(chosen)) > 0.02


def test_running_trials_are_taken_into_account() -> None:
    study = study_of(VALLEY, gaussian(0))
    first, second = study.ask(X), study.ask(X)
    assert second.params["x"] != pytest.approx(first.params["x"], abs=1e-3)


def test_two_objectives_of_which_one_is_an_accuracy() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for number in range(12):
        study.sampler = gaussian(number)
        trial = study.ask({**X, "y": optuna.distributions.FloatDistribution(0, 1)})
        x, y = trial.params["x"], trial.params["y"]
        study.tell(trial, [10 ** (3 * x + 3 * y), 0.9 + 0.1 * x - 0.05 * y])
    assert statistics.median(trial.params["y"] for trial in study.trials[-6:]) < 0.05  # it only costs
    assert max(trial.params["x"] for trial in study.best_trials) > 0.9


@pytest.mark.parametrize("wrong", [{"startup": 0}, {"most": 0}])
def test_without_trials_to_learn_from_there_is_no_process(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GaussianProcess(**{"seed": 0, "startup": 6, "most": 100, **wrong})
