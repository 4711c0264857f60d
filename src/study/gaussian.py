"""Bayesian optimization of a search: what the trials so far say about the next one."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

LEAST = 1e-6  # whose logarithm stands for that of nothing


class GaussianProcess(optuna.samplers.BaseSampler):
    """Chooses where the expected improvement within the budget is largest (Gardner et al. 2014).

    Bytes, milliseconds and errors differ by factors, from a hundredth of a limit to a hundred times, and a search asks
    by what factor: so the processes model logarithms, as the judge's violations are already. Optuna's ``GPSampler``
    does the rest, asked in a study of its own in memory.

    Args:
        seed: Of its choices.
        startup: So many trials are chosen by chance first.
        most: The last so many are learned from; the time of a choice grows with their cube.
    """

    def __init__(self, *, seed: int, startup: int, most: int) -> None:
        self.seed, self.startup, self.most = seed, startup, most
        self.chance = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return intersection_search_space(complete[-self.most :]) if len(complete) >= self.startup else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        process = optuna.samplers.GPSampler(seed=self.seed, n_startup_trials=1, warn_independent_sampling=False)
        model = optuna.create_study(directions=study.directions, sampler=process)
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])[-self.most :]
        running = [
            other
            for other in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            if other.number != trial.number and search_space.keys() <= other.params.keys()
        ]
        model.add_trials([_modelled(study, each, search_space) for each in (*complete, *running)])
        return model.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.chance.sample_independent(study, trial, param_name, param_distribution)


def _modelled(study: optuna.Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> FrozenTrial:
    """The trial with logarithms of its values: of what is to be small, and of what a share lacks to be whole."""
    values = None
    if trial.state is TrialState.COMPLETE:
        values = [
            math.log(max(value, LEAST)) if direction is StudyDirection.MINIMIZE else -math.log(max(1 - value, LEAST))
            for value, direction in zip(trial.values, study.directions, strict=True)
        ]
    return create_trial(
        state=trial.state,
        values=values,
        params={name: trial.params[name] for name in space},
        distributions=space,
        constraints=trial.constraints,
    )
