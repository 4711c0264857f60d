"""Studies in memory, and trials as a search leaves them."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.experiment.budget import Budget
from src.study.attributes import ACCURACIES, POINT, REASON, STOPPED, TOTAL_SECONDS, VALUES, WORK_SECONDS
from src.study.judging import Judge

JUDGE = Judge(("size_gzip_bytes",), Budget(accuracy_drop=0.01), baseline=0.99)


def measured(accuracy: float, size: float, *, stopped: str | None = None, **point: Any) -> FrozenTrial:
    """A trial that came to an end; ``stopped`` is why it came there early."""
    attributes: dict[str, Any] = {
        POINT: point,
        VALUES: {"accuracy_validation": accuracy, "size_gzip_bytes": size},
        ACCURACIES: {"1.0": accuracy},
        WORK_SECONDS: 3.0,
        TOTAL_SECONDS: 4.0,
    }
    if stopped is not None:
        attributes[STOPPED] = stopped
    return create_trial(value=size, user_attrs=attributes)


def failed(reason: str) -> FrozenTrial:
    """A trial that failed."""
    return create_trial(state=TrialState.FAIL, user_attrs={REASON: reason})


def study_of(*trials: FrozenTrial) -> optuna.Study:
    study = optuna.create_study()
    study.add_trials(trials)
    return study
