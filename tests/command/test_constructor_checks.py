"""A constructor's own checks, run without its module, refuse what it refuses and nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from src.command.composition import composed
from src.command.config_checks import check_values
from src.command.constructor_checks import refusal
from src.contracts import InputError
from src.data.augmentation import Affine
from src.methods.cluster import Cluster
from src.methods.quantize_uniform import QuantizeUniform
from src.metrics.timing import Clock
from src.primitives.distributions import PerLayer
from src.primitives.schedules import Cubic, MultiStep

OBJECT = {"_target_": "src.anything"}


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (Cubic, {"begin": 0.5, "end": 0.1, "updates": 1}),  # in a base class
        (MultiStep, {"steps": {0.5: 0.5, 0.2: 1.0}}),  # through names that the check assigns
        (PerLayer, {"ratios": {"*": -1.0}}),
        (Clock, {"threads": 1, "seconds": 0.0, "rounds": 1, "largest_batch": 1}),
        (Affine, {"degrees": 1.0, "scale": [1.0], "shift": 0.0}),
        (Cluster, {"clusters": 2**20, "bits": None}),  # by a function and a constant of the module
        (QuantizeUniform, {"bits": {"a": 3, "*": 0}, "activation_bits": None}),  # by a property and another module
    ],
)
def test_the_message_is_the_constructors_own(made: Any, values: dict[str, Any]) -> None:
    rest = {name: None for name in getattr(made, "__dataclass_fields__", {}) if name not in values}
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        made(**values, **rest)
    assert refusal(f"{made.__module__}.{made.__qualname__}", values) == str(raised.value)


def test_what_is_not_built_yet_is_not_judged() -> None:
    assert refusal("src.methods.quantize_uniform.QuantizeUniform", {"bits": OBJECT, "activation_bits": 99}) is not None
    assert refusal("src.methods.quantize_uniform.QuantizeUniform", {"bits": OBJECT, "activation_bits": None}) is None
    assert refusal("src.methods.prune.Prune", {"sparsity": 0.5, "schedule": OBJECT, "fine_tune": None}) is None
    assert refusal("src.methods.prune.Prune", {"sparsity": "???"}) is None
    assert refusal("torch.optim.SGD", {"lr": -1}) is None


def test_a_check_cannot_reach_files_or_packages(tmp_path: Any) -> None:
    """Names that a check may not use are passed over: building a data set reads its folder."""
    said = refusal("src.data.image_folder.ImageFolder", {"root": str(tmp_path / "none"), "side": 32, "channels": 3})
    assert said is None


def test_the_full_key_is_named_and_torch_is_not_imported() -> None:
    code = (
        "import sys\nfrom src.command.constructor_checks import refusal\n"
        "print(refusal('src.methods.prune.Prune', {'sparsity': 1.0}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sparsity must be in [0, 1), and is 1.0")
    assert done.stdout.endswith("False\n")
    with pytest.raises(InputError, match=r"^data\.validation_share must be in \(0, 1\), and is 2$"):
        check_values(composed(["data.validation_share=2"])[0])
