"""Names of weights, patterns, and settings that differ from layer to layer."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from src.primitives.layers import layer_name, matching, per_layer, refuse_shared, weight_names, without

NAMES = ["features.0.weight", "features.3.weight", "classifier.weight"]


class Tied(nn.Module):
    """Two dense layers of one weight, a convolution without a bias, an embedding, batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 1, bias=False)
        self.bn = nn.BatchNorm1d(4)
        self.words = nn.Embedding(5, 4)
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other.weight = self.one.weight


def test_weights_of_dense_layers_and_convolutions_are_named_once_in_their_order() -> None:
    assert weight_names(Tied()) == ["conv.weight", "one.weight"]


def test_the_layer_of_a_weight_is_all_before_the_last_dot() -> None:
    assert [layer_name(name) for name in [*NAMES, "weight"]] == ["features.0", "features.3", "classifier", ""]


def test_ignored_patterns_remove_names_and_keep_the_order() -> None:
    assert without(NAMES, ["features.3*"]) == ["features.0.weight", "classifier.weight"]
    assert without(NAMES, []) == NAMES


def test_ignoring_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="ignored leaves no weight to work on"):
        without(NAMES, ["*"])


def test_a_pattern_that_matches_nothing_lists_the_nearest_names() -> None:
    with pytest.raises(
        ValueError, match=r"ignored: no weight is called clasifier\.\*; the nearest are classifier\.weight"
    ):
        without(NAMES, ["clasifier.*"])
    with pytest.raises(ValueError, match="ignored: no layer is called tow; the nearest are two"):
        matching(["one", "two"], ["tow"], "ignored", "layer")
    with pytest.raises(ValueError, match="the nearest are one, two"):
        matching(["one", "two"], ["????????"], "ignored")


def test_the_names_of_all_patterns_are_selected() -> None:
    assert matching(NAMES, ["features.*", "*.weight"], "ignored") == set(NAMES)
    assert matching(NAMES, [], "ignored") == set()


def test_a_setting_is_one_value_for_all_or_that_of_the_first_pattern_that_matches() -> None:
    assert per_layer(4, NAMES, "bits") == dict.fromkeys(NAMES, 4)
    assert list(per_layer({"features.0*": 8, "features*": 2, "*": 4}, NAMES, "bits").values()) == [8, 2, 4]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"features*": 8}, r"bits: no pattern matches classifier\.weight; add '\*' last, for all others"),
        ({"featres*": 8, "*": 4}, r"bits: no weight is called featres\*; the nearest are features"),
    ],
)
def test_patterns_must_match_every_name_and_each_at_least_one(setting: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        per_layer(setting, NAMES, "bits")


def test_a_parameter_of_two_modules_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"^one\.weight and other\.weight are one parameter, and it would be untied$"):
        refuse_shared(Tied(), ["conv.weight", "one.weight"], "it would be untied")
    refuse_shared(Tied(), ["conv.weight", "one.bias"], "it would be untied")


def test_a_module_that_is_used_under_two_names_shares_its_parameters() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are one parameter"):
        refuse_shared(nn.Sequential(layer, layer), ["0.weight"], "it would be untied")
