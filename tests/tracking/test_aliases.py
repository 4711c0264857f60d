"""An alias of the registry moves only to a better version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from src.contracts import Registration
from src.tracking.aliases import Tags, objection
from src.tracking.registry import Registry, model_card, tags_of
from tests.tracking.rows import row


def tagged(**tags: str) -> dict[str, str]:
    common = {"target": "onnxruntime", "machine": "m", "objective": "size_gzip_bytes", "budget": "{}"}
    return {**common, "size_bytes": "100", "size_gzip_bytes": "50", "latency_ms_p50": "1.0", **tags}


@pytest.mark.parametrize(
    ("alias", "new", "moves"),
    [
        ("smallest", {"size_bytes": "99"}, True),
        ("smallest", {"size_gzip_bytes": "49"}, True),
        ("smallest", {}, False),
        ("smallest", {"size_bytes": "9", "target": "openvino"}, False),
        ("fastest", {"latency_ms_p50": "0.9"}, True),
        ("fastest", {"latency_ms_p50": "0.99"}, False),
        ("fastest", {"latency_ms_p50": "0.5", "machine": "other"}, False),
        ("best_within_budget", {"size_gzip_bytes": "49"}, True),
        ("best_within_budget", {"size_gzip_bytes": "49", "budget": "{1}"}, False),
        ("best_within_budget", {"size_gzip_bytes": "51"}, False),
        ("best_within_budget", {"objective": "energy_uj_estimate"}, False),
    ],
)
def test_an_alias_moves_only_by_its_rule(alias: str, new: dict[str, str], moves: bool) -> None:
    assert (objection(alias, tagged(**new), tagged()) is None) is moves


@pytest.mark.parametrize(("new", "moves"), [("0.95", True), ("0.85", False), ("0.9", False)])
def test_a_higher_accuracy_is_the_better_one(new: str, moves: bool) -> None:
    question = {"objective": "accuracy_validation"}
    versions = (tagged(**question, accuracy_validation=accuracy) for accuracy in (new, "0.9"))
    assert (objection("best_within_budget", *versions) is None) is moves


def test_a_version_without_a_latency_is_not_the_fastest() -> None:
    untimed = {key: value for key, value in tagged().items() if key != "latency_ms_p50"}
    assert objection("fastest", untimed, tagged()) == "one of them has no latency"


def test_a_model_whose_objective_was_not_registered_keeps_its_place() -> None:
    question = {"objective": "energy_uj_estimate"}
    reason = objection("best_within_budget", tagged(**question, energy_uj_estimate="1.5"), tagged(**question))
    assert reason == "one of them has no energy_uj_estimate"
    energies = (tagged(**question, energy_uj_estimate=energy) for energy in ("1.5", "2.5"))
    assert objection("best_within_budget", *energies) is None


class Memory(Registry):
    """A registry in memory."""

    def __init__(self, **versions: Tags) -> None:
        super().__init__("memory")
        self.tags = {name.removeprefix("v"): tags for name, tags in versions.items()}
        self.aliases: dict[str, str] = {}

    def versions(self, name: str) -> Mapping[str, Tags]:
        return self.tags

    def holder(self, name: str, alias: str) -> str | None:
        return self.aliases.get(alias)

    def move(self, name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def add(self, chosen: Registration, tags: Tags, card: str) -> str:
        self.tags[version := str(len(self.tags) + 1)] = tags
        return version


def test_a_promotion_says_what_became_of_the_alias() -> None:
    registry = Memory(
        v1=tagged(within_budget="true"), v2=tagged(size_bytes="90", within_budget="true"), v3=tagged(size_bytes="1")
    )
    assert registry.promote("m", "1", "smallest") == (True, "smallest moved to version 1")
    assert registry.promote("m", "2", "smallest") == (True, "smallest moved to version 2 from 1")
    assert registry.promote("m", "2", "smallest") == (True, "smallest stands at version 2 already")
    stands, reason = registry.promote("m", "1", "smallest")
    assert not stands
    assert reason.startswith("smallest stays at version 2: it has 90 bytes, the other 100")
    stands, reason = registry.promote("m", "3", "smallest")
    assert not stands
    assert reason == "version 3 misses the budget that it was made for ({})"


def registration(folder: Path, **more: object) -> Registration:
    chosen = row(folder, "prune", latency_ms_p50=None)
    given = {"name": "m", "row": chosen, "rows": [chosen], "objective": "size_bytes", "budget": {"latency_ms": 0.1}}
    return Registration(**{**given, "command": "make", "git_commit": None, "point": {"a": 1}, **more})  # type: ignore[arg-type]


def test_a_version_is_tagged_with_its_numbers_and_its_question(tmp_path: Path) -> None:
    tags = tags_of(registration(tmp_path))
    assert {key: tags[key] for key in ("size_bytes", "accuracy", "target", "runtime", "budget", "within_budget")} == {
        "size_bytes": "1000",
        "accuracy": "0.9",
        "target": "onnxruntime",
        "runtime": "onnxruntime",
        "budget": '{"latency_ms": 0.1}',
        "within_budget": "true",
    }
    assert "latency_ms_p50" not in tags
    assert set(map(type, tags.values())) == {str}


def test_the_same_measurement_for_another_budget_is_another_version(tmp_path: Path) -> None:
    registry = Memory()
    for budget in ({"latency_ms": 0.1}, {"latency_ms": 0.1}, {"latency_ms": 0.2}):
        registry.register(registration(tmp_path, budget=budget), tmp_path)
    assert sorted(registry.tags) == ["1", "2"]


def test_a_model_card_says_what_is_not_known(tmp_path: Path) -> None:
    card = model_card(registration(tmp_path))
    assert "commit unknown" in card
    assert "| onnxruntime | onnxruntime | int8 | 90.00 % | 91.00 % | 1.00 kB | 500 B | - |" in card
