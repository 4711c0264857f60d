"""What images and networks say of themselves."""

from __future__ import annotations

from torch import nn

from src.contracts import DataSplits, InputContract


def test_a_departure_from_the_input_contract_is_a_line(splits: DataSplits) -> None:
    contract = InputContract((224, 224), "bicubic", 0.875, None, None)
    assert contract.departure(splits) == (
        "the pretrained weights expect images of 224x224, bicubic, cropped to 0.875 of the shorter side; "
        "shapes has 16x16, bilinear, stretched"
    )
    assert InputContract((16, 16), "bilinear", None, None, None).departure(splits) is None


def test_only_a_builder_of_pretrained_networks_gives_a_network_a_contract() -> None:
    contract = InputContract((224, 224), "bicubic", 0.875, None, None)
    pretrained, own = nn.Linear(2, 1), nn.Linear(2, 1)
    pretrained.input_contract = contract  # type: ignore[assignment]
    own.input_contract = "an attribute of somebody's network"  # type: ignore[assignment]
    assert InputContract.of(pretrained) is contract
    assert InputContract.of(own) is None
    assert InputContract.of(nn.Linear(2, 1)) is None
