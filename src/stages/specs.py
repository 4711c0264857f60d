"""What determines each kind of stage, as plain values to hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from src.stages.identity import identity

Config = Mapping[str, Any]

# The folder of the data determines nothing; its checksum is a key of its own; calibration images serve later steps.
NOT_DETERMINING = {"root", "sha256", "calibration_images"}


@dataclass(frozen=True)
class Stage:
    """A stage to be made or found again.

    Attributes:
        name: ``baseline``, the name of a step, ``export <target>`` or ``timing``.
        spec: All that determines the stage.
        identity: Hash of ``spec``.
    """

    name: str
    spec: Mapping[str, Any]
    identity: str

    @classmethod
    def of(cls, name: str, spec: Mapping[str, Any]) -> Stage:
        """The stage that ``spec`` determines."""
        return cls(name, spec, identity(spec))


def baseline_spec(
    *,
    data: Config,
    checksum: str,
    model: Config,
    training: Config | None,
    weights_sha256: str | None,
    compute: Any,
    seed: int,
    made_by: Config,
) -> dict[str, Any]:
    """A network that is trained, or one that is given with its weights; no training determines the latter.

    Args:
        data: Config of the data.
        checksum: SHA-256 of the data.
        model: Config of the model.
        training: Config of the training; None if the given weights are not trained.
        weights_sha256: SHA-256 of the file of trained weights; None if the network is trained.
        compute: Precision, device and threads of the training.
        seed: Seed of the weights and the batch order.
        made_by: Source code and library versions, as ``sources`` returns them.
    """
    return {
        "kind": "baseline",
        "data": {key: value for key, value in data.items() if key not in NOT_DETERMINING},
        "checksum": checksum,
        "model": dict(model),
        "training": None if training is None else dict(training),
        "weights": weights_sha256,
        "compute": _compute(compute),
        "seed": seed,
        "made_by": dict(made_by),
    }


def step_spec(
    *,
    input_identity: str,
    calibration: str,
    method: Config,
    files: Mapping[str, str],
    loss: Config,
    compute: Any,
    seed: int,
    made_by: Config,
) -> dict[str, Any]:
    """One method, applied to the network of another stage, whose identity covers data, model and training.

    Args:
        input_identity: Identity of that other stage.
        calibration: SHA-256 of the calibration images.
        method: Config of the method.
        files: SHA-256 of each file that the method's settings name, by its key.
        loss: Config of the training's loss.
        compute: Precision, device and threads of the fine-tuning.
        seed: Seed of the batch order and the method's random draws.
        made_by: Source code and library versions, as ``sources`` returns them.
    """
    return {
        "kind": "step",
        "input": input_identity,
        "calibration": calibration,
        "method": dict(method),
        "files": dict(files),
        "loss": dict(loss),
        "compute": _compute(compute),
        "seed": seed,
        "made_by": dict(made_by),
    }


def export_spec(
    *, input_identity: str, classes: Sequence[str], target: Config, machine: str, made_by: Config
) -> dict[str, Any]:
    """A file, written for a target and measured on a machine.

    Args:
        input_identity: Identity of the stage whose network is exported.
        classes: Names of the classes, which the file holds.
        target: Config of the target.
        machine: Name of the machine.
        made_by: Source code and library versions, as ``sources`` returns them.
    """
    return {
        "kind": "export",
        "input": input_identity,
        "classes": list(classes),
        "target": dict(target),
        "machine": machine,
        "made_by": dict(made_by),
    }


def timing_spec(*, exports: Sequence[str], clock: Any, machine: str, made_by: Config) -> dict[str, Any]:
    """The times of exported files, measured in turns on a machine.

    Args:
        exports: Identities of the stages that wrote the files.
        clock: Settings of the measurement.
        machine: Name of the machine.
        made_by: Source code and library versions, as ``sources`` returns them.
    """
    return {
        "kind": "timing",
        "exports": list(exports),
        "clock": _values(clock),
        "machine": machine,
        "made_by": dict(made_by),
    }


def _compute(settings: Any) -> Any:
    """Settings of the computation; one device goes without saying, as in stages of before there were more."""
    values = _values(settings)
    return {k: v for k, v in values.items() if (k, v) != ("devices", 1)} if isinstance(values, dict) else values


def _values(settings: Any) -> Any:
    """A dataclass as a dict; anything else as it is."""
    return asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings
