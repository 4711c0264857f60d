"""Each card in docs/methods states the settings of its config, and its commands compose."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.command.composition import composed

ROOT = Path(__file__).parent.parent.parent
CONF, CARDS = ROOT / "conf" / "method", ROOT / "docs" / "methods"
METHODS = sorted(path.stem for path in CARDS.glob("*.md") if path.stem != "README")
SECTIONS = ["Equation", "Paper", "Settings", "Cost", "When to use it", "Keeps and undoes", "Example"]
CONFIG_OF = {"run": "config", "sensitivity": "sensitivity", "search": "search"}
HEADER = "| setting | default | meaning |\n|---|---|---|\n"


def settings_of(name: str) -> dict[str, Any]:
    """The defaults of ``conf/method/<name>.yaml`` and of the files that it builds on, by dotted key.

    An object is named by its class, and a config that another group (or method) gives by that config's name.
    """
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    found: dict[str, Any] = {}
    for entry in config.pop("defaults", []):
        if isinstance(entry, dict):  # "/training@fine_tune: fine_tune"
            ((key, choice),) = entry.items()
            found[key.partition("@")[2]] = choice
        elif "@" in entry:  # "prune_magnitude@steps.prune"
            choice, _, key = entry.partition("@")
            found[key] = choice
        elif entry != "_self_":
            found |= settings_of(entry)
    config.pop("_target_", None)
    for key, value in config.items():
        put(found, key, value)
    return found


def put(found: dict[str, Any], key: str, value: Any) -> None:
    """Merge ``value`` into ``found`` as Hydra would: an object into an object, anything else in its place."""
    if not isinstance(value, dict):
        for below in [name for name in found if name.startswith(f"{key}.")]:
            del found[below]
        found[key] = value
        return
    for name, inner in value.items():
        if name == "_target_":
            found[key] = inner.rpartition(".")[2]
        else:
            put(found, f"{key}.{name}", inner)


def card(name: str) -> str:
    return (CARDS / f"{name}.md").read_text()


def stated_settings(text: str) -> dict[str, Any]:
    """The rows of a card's settings table: key to default, read as YAML."""
    table = text.split(HEADER)[1].split("\n\n")[0]
    rows = [re.fullmatch(r"\| `([^`|]+)` \| `([^`|]+)` \| [^|]+ \|", line) for line in table.splitlines()]
    assert all(rows), table
    keys = [row[1] for row in rows if row]
    assert len(keys) == len(set(keys)), keys
    return {row[1]: yaml.safe_load(row[2]) for row in rows if row}


def commands(text: str) -> list[tuple[str, ...]]:
    """Each ``python -m src.NAME …`` of the console blocks: NAME and the overrides."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[:3] == ["$", "python", "-m"], line
            found.append((words[3].removeprefix("src."), *words[4:]))
    return found


@cache
def choices(command: tuple[str, ...]) -> dict[str, str]:
    """Compose the command; which config each group was given."""
    return composed(command[1:], CONFIG_OF[command[0]])[1]


def test_every_card_is_of_a_config() -> None:
    """The other way round is free: a method of one's own is three files, and its card comes when it is shared."""
    assert len(METHODS) >= 23
    assert {path.stem for path in CONF.glob("*.yaml")} >= set(METHODS)


def test_the_index_has_a_line_for_every_card() -> None:
    lines = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| \S.* \|$", card("README"), re.MULTILINE)
    assert sorted(lines) == [(name, name) for name in METHODS]


@pytest.mark.parametrize("name", METHODS)
def test_a_card_has_its_title_and_its_sections_in_order(name: str) -> None:
    assert card(name).splitlines()[0] == f"# {name} (`method={name}`)"
    assert re.findall(r"^## (.*)$", card(name), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("name", METHODS)
def test_a_card_states_the_settings_of_its_config_with_their_defaults(name: str) -> None:
    stated, wanted = stated_settings(card(name)), settings_of(name)
    assert set(stated) == set(wanted)
    wrong = {key: (stated[key], wanted[key]) for key in wanted if repr(stated[key]) != repr(wanted[key])}
    assert not wrong


@pytest.mark.parametrize("name", ["README", *METHODS])
def test_the_commands_of_a_card_compose(name: str) -> None:
    chosen = [choices(command) for command in commands(card(name))]
    assert name == "README" or name in {found["method"] for found in chosen}


@pytest.mark.parametrize("name", ["README", *METHODS])
def test_the_links_of_a_card_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)", card(name)):
        assert (CARDS / link).exists(), link


def test_settings_are_merged_as_hydra_merges_them() -> None:
    found = {"scores": "A", "scores.draws": 4, "schedule": "Cubic", "schedule.updates": 40}
    put(found, "scores", None)
    put(found, "schedule", {"_target_": "b.Steps", "updates": 5})
    assert found == {"scores": None, "schedule": "Steps", "schedule.updates": 5}
