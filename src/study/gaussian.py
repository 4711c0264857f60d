"""Bayesian optimization of a search: what the trials so far say about the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

LEAST = 1e-6  # whose logarithm stands for that of nothing
FAR = 1.0  # by how much a trial that failed misses each limit at least

Space = dict[str, BaseDistribution]


class GaussianProcess(optuna.samplers.BaseSampler):
    """Chooses where the expected improvement within the budget is largest (Gardner et al. 2014).

    Bytes, milliseconds and errors differ by factors, and a search asks by what factor: so the processes model
    logarithms, as the judge's violations are already. A trial that failed counts as the worst. Optuna's ``GPSampler``
    does the rest, asked in a study of its own in memory.

    Args:
        seed: Of its choices.
        startup: So many trials must be complete before it chooses; chance does until then.
        most: The last so many are learned from, beside the best; the time of a choice grows with their cube.

    Raises:
        ValueError: ``startup`` or ``most`` is less than 1.
    """

    def __init__(self, *, seed: int, startup: int, most: int) -> None:
        if startup < 1 or most < 1:
            raise ValueError(f"startup and most must be at least 1, and are {startup} and {most}")
        self.seed, self.startup, self.most = seed, startup, most
        self.chance = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return intersection_search_space(complete) if len(complete) >= self.startup else {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
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
        return self.chance.sample_independent(study, trial, param_name, param_distribution)


def _logarithmic(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial:
    """The trial with logarithms of its values: of what is to be small, and of what a share lacks to be whole."""
    values = [
        math.log(max(value, LEAST)) if direction is StudyDirection.MINIMIZE else -math.log(max(1 - value, LEAST))
        for value, direction in zip(trial.values, study.directions, strict=True)
    ]
    return _valued(trial, values, trial.constraints)


def _worst(study: optuna.Study, trial: FrozenTrial, known: Sequence[FrozenTrial]) -> FrozenTrial:
    """A trial that failed, as one that is worse than all that is known."""
    values = [
        max(each) if direction is StudyDirection.MINIMIZE else min(each)
        for each, direction in zip(zip(*(other.values for other in known), strict=True), study.directions, strict=True)
    ]
    limits = known[0].constraints
    return _valued(trial, values, {name: max(FAR, *(each.constraints[name] for each in known)) for name in limits})


def _valued(trial: FrozenTrial, values: Sequence[float], constraints: dict[str, float]) -> FrozenTrial:
    return create_trial(values=values, params=trial.params, distributions=trial.distributions, constraints=constraints)
