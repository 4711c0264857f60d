"""The files that tests of targets share."""

from __future__ import annotations

import pytest

from tests.exported import NETS, TARGETS, Exported, export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Exported]:
    """The file of each network for each target."""
    return {
        (net, name): export(make(), target, tmp_path_factory.mktemp(f"{net}_{name}"))
        for net, make in NETS.items()
        for name, target in TARGETS.items()
    }
