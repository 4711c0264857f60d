"""The method that CONTRIBUTING.md shows does what it says."""

from __future__ import annotations

import re
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from src.contracts import NoEffectError

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def test_the_shown_method_sets_small_weights_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert shown is not None
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)  # a dataclass looks for its module there
    exec(textwrap.dedent(shown[1]), module.__dict__)
    net = nn.Sequential(nn.Linear(4, 2))
    net[0].weight.data = torch.tensor([[0.1, -0.3, 0.0, 0.5], [-0.1, 0.2, 0.19, 1.0]])
    method = module.Threshold(threshold=0.2)
    weight = method.compress(net, None).model[0].weight
    assert torch.equal(weight, torch.tensor([[0.0, -0.3, 0.0, 0.5], [0.0, 0.2, 0.0, 1.0]]))
    with pytest.raises(NoEffectError, match="no weight is below"):
        method.compress(net, None)
    with pytest.raises(ValueError, match="threshold must be more than 0"):
        module.Threshold(threshold=0.0)
