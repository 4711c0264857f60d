"""Bayesian optimization of a search: Gaussian processes of the trials so far choose the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

SMALLEST = 1e-6  # smaller values count as this one, so that a logarithm exists
FAILED_VIOLATION = 1.0  # a failed trial counts as missing each limit by at least this much

Distributions = dict[str, BaseDistribution]


class GaussianProcess(optuna.samplers.BaseSampler):
    """Chooses the point with the largest expected improvement within the budget.

    The processes model logarithms of bytes, milliseconds and errors, since a search compares these by ratios; the
    judge's violations are logarithms already. A failed trial counts as the worst one known. Optuna's ``GPSampler``
    does the rest on the changed values, in a study of its own in memory.

    Args:
        seed: Seed of its choices.
        startup: Number of completed trials before it chooses; the first ones are chosen at random.
        most: Number of latest trials that it learns from, beside the best ones. The time of a choice grows with the
            cube of this number.

    Raises:
        ValueError: ``startup`` or ``most`` is less than 1.

    Paper: Gardner et al. 2014, "Bayesian Optimization with Inequality Constraints" (ICML). Deviation: logarithms.
    """

    def __init__(self, *, seed: int, startup: int, most: int) -> None:
        if startup < 1 or most < 1:
            raise ValueError(f"startup and most must be at least 1, and are {startup} and {most}")
        self.seed, self.startup, self.most = seed, startup, most
        self.random = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return intersection_search_space(complete) if len(complete) >= self.startup else {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Distributions) -> dict[str, Any]:
        if not search_space:
            return {}
        states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
        others = [
            other
            for other in study.get_trials(deepcopy=False, states=states)
            if other.number != trial.number and search_space.keys() <= other.params.keys()
        ]
        learned = {other.number for other in (*study.best_trials, *others[-self.most :])}
        known = [other for other in others if other.number in learned]
        complete = [_logarithmic(study, other) for other in known if other.state is TrialState.COMPLETE]
        failed = [_worst(study, other, complete) for other in known if other.state is TrialState.FAIL]
        running = [other for other in known if other.state is TrialState.RUNNING]
        process = optuna.samplers.GPSampler(seed=self.seed, n_startup_trials=1, warn_independent_sampling=False)
        model = optuna.create_study(directions=study.directions, sampler=process)
        model.add_trials([*complete, *failed, *running])
        return model.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.random.sample_independent(study, trial, param_name, param_distribution)


def _logarithmic(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    """The trial with log(value) for each objective to minimize, and -log(1 - value) for each share to maximize."""
    values = [
        math.log(max(value, SMALLEST)) if direction is StudyDirection.MINIMIZE else -math.log(max(1 - value, SMALLEST))
        for value, direction in zip(trial.values, study.directions, strict=True)
    ]
    return _with_values(trial, values, trial.constraints)


def _worst(study: optuna.Study, trial: FrozenTrial, known: Sequence[FrozenTrial]) -> FrozenTrial:
    """A failed trial with the worst values and violations that ``known`` trials have."""
    values = [
        max(each) if direction is StudyDirection.MINIMIZE else min(each)
        for each, direction in zip(zip(*(other.values for other in known), strict=True), study.directions, strict=True)
    ]
    violations = {
        name: max(FAILED_VIOLATION, *(each.constraints[name] for each in known)) for name in known[0].constraints
    }
    return _with_values(trial, values, violations)


def _with_values(trial: FrozenTrial, values: Sequence[float], constraints: dict[str, float]) -> FrozenTrial:
    return create_trial(values=values, params=trial.params, distributions=trial.distributions, constraints=constraints)
