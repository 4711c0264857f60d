"""The keys under which a study and its trials store values in the database, as Optuna's user attributes.

Studies of earlier versions have the same keys; a change of what is stored raises ``LATEST_SCHEMA``.
"""

from __future__ import annotations

from optuna.trial import FrozenTrial

LATEST_SCHEMA = 1  # a study that does not store its schema is of schema 1

# Study: its identifier, the configuration that all trials share, whether its first points are queued, its schema.
STUDY_ID, DEFINITION, STARTED, SCHEMA = "id", "asked", "begun", "schema"
# Trial: how many times it was started, and why it failed.
ATTEMPTS, REASON = "attempts", "reason"
# Trial: its choices, its latest measurements, its accuracy by length of fine-tuning, and why it was stopped early.
POINT, VALUES, ACCURACIES, STOPPED = "point", "values", "accuracies", "stopped"
# Trial: seconds spent on making and measuring models, and its seconds in all.
WORK_SECONDS, TOTAL_SECONDS = "busy_s", "spent_s"


def values_of(trial: FrozenTrial) -> dict[str, float]:
    """The columns that were measured last in a finished trial."""
    return dict(trial.user_attrs[VALUES])


def accuracies_of(trial: FrozenTrial) -> dict[float, float]:
    """A finished trial's accuracy on validation data by share of the fine-tuning."""
    return {float(length): accuracy for length, accuracy in trial.user_attrs[ACCURACIES].items()}
