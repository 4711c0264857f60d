"""What a study and its trials keep in the database: Optuna's user attributes, whose keys earlier versions share."""

from __future__ import annotations

from optuna.trial import FrozenTrial

# Of a study: its identifier, the configuration that all trials share, and whether its first points are queued.
STUDY_ID, DEFINITION, STARTED = "id", "asked", "begun"
# Of a trial: how often it was started, and why it failed.
ATTEMPTS, REASON = "attempts", "reason"
# Of a trial: what it chose, what was measured last, its accuracies by length, and why it was stopped early.
POINT, VALUES, ACCURACIES, STOPPED = "point", "values", "accuracies", "stopped"
# Of a trial: seconds of making and measuring models, and all of its seconds.
WORK_SECONDS, TOTAL_SECONDS = "busy_s", "spent_s"


def values_of(trial: FrozenTrial) -> dict[str, float]:
    """The columns that were measured last in a finished trial."""
    return dict(trial.user_attrs[VALUES])


def accuracies_of(trial: FrozenTrial) -> dict[float, float]:
    """A finished trial's accuracy on validation data by share of the fine-tuning."""
    return {float(length): accuracy for length, accuracy in trial.user_attrs[ACCURACIES].items()}
