"""The promote command as a user sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Commands
from tests.conftest import MakeStore


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def tagged(**tags: str) -> dict[str, str]:
    common = {"target": "onnxruntime", "machine": "m", "objective": "size_gzip_bytes", "budget": "{}"}
    return {**common, "size_bytes": "100", "size_gzip_bytes": "50", "latency_ms_p50": "1.0", **tags}


def test_an_alias_that_moves_says_so_and_one_that_stays_exits_with_4(
    commands: Commands,
    mlflow_store: MakeStore,
) -> None:
    from mlflow import MlflowClient

    uri = mlflow_store(commands.folder)
    client = MlflowClient(tracking_uri=uri)
    client.create_registered_model("m")
    for tags in (tagged(within_budget="true"), tagged(size_bytes="90", within_budget="true"), tagged(size_bytes="1")):
        client.create_model_version("m", source="file:///nowhere", tags=tags)
    said = commands.call("promote", "m", "1", "smallest", "--uri", uri)
    assert (said.code, said.out) == (0, "smallest moved to version 1.\n")
    said = commands.call("promote", "m", "2", "smallest", "--uri", uri)
    assert (said.code, said.out) == (0, "smallest moved to version 2 from 1.\n")
    said = commands.call("promote", "m", "1", "smallest", "--uri", uri)
    assert said.code == 4
    assert "smallest stays at version 2: it has 90 bytes, the other 100" in said.out
    said = commands.call("promote", "m", "3", "smallest", "--uri", uri)
    assert said.code == 4
    assert "misses the budget" in said.out
    said = commands.call("promote", "m", "9", "smallest", "--uri", uri)
    assert said.code == 2
    assert "has versions 1, 2, 3 of 'm', and not 9" in said.err


def test_a_store_without_a_registry_and_an_unknown_one_are_answered_in_a_line(commands: Commands) -> None:
    said = commands.call("promote", "m", "1", "smallest", "--tracking", "off")
    assert (said.code, said.err) == (2, "this tracking store has no registry of models\n")
    said = commands.call("promote", "m", "1", "smallest", "--tracking", "../method/distill")
    assert (said.code, said.err) == (2, "there is no tracking '../method/distill' in conf/tracking\n")
