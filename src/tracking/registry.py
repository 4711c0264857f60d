"""The model registry: versions with their numbers, and aliases that move only to a better version."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from src.contracts import BY_NAME, InputError, Registration, Row
from src.files.writing import write_text
from src.tracking.aliases import RULES, Tags, objection

SAME_MODEL = ("variant", "sha256", "measured_at")  # the same file and measurement
CARD = "model_card.md"
CARD_COLUMNS = ("accuracy", "accuracy_validation", "size_bytes", "size_gzip_bytes", "latency_ms_p50")
FROM_ROW = ("sha256", "measured_at", "identity", "machine", "target", "runtime")
SAME = ("sha256", "measured_at", "objective", "budget")  # the same measurement for the same question


class Registry(ABC):
    """Registered models in a tracking store: a store says how versions and aliases are kept.

    Args:
        uri: Address of the store.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @abstractmethod
    def versions(self, name: str) -> Mapping[str, Tags]:
        """Return the tags of each version of a registered model; empty if there is no such model."""

    def complete(self, name: str, version: str) -> bool:
        """Whether the model of a version is logged completely."""
        return True

    @abstractmethod
    def holder(self, name: str, alias: str) -> str | None:
        """Return the version that an alias names; None if it names none."""

    @abstractmethod
    def move(self, name: str, alias: str, version: str) -> None:
        """Let an alias name ``version``."""

    @abstractmethod
    def add(self, chosen: Registration, tags: Tags, card: str) -> str:
        """Make a version of the logged file of ``chosen.row``; return its number.

        Raises:
            TrackingError: No run has logged the file.
        """

    def register(self, chosen: Registration, folder: Path) -> list[str]:
        """Make the chosen model a version, move each alias for which it is better, and write its card to ``folder``.

        A version of the same measurement for the same question is found again.

        Returns:
            What was done, in one line.
        """
        card = model_card(chosen)
        write_text(folder / CARD, card + "\n")
        tags = tags_of(chosen)
        same = (
            version
            for version, others in self.versions(chosen.name).items()
            if all(others.get(key) == tags[key] for key in SAME)
        )
        version = next(same, None) or self.add(chosen, tags, card)
        versions = {**self.versions(chosen.name), version: tags}
        moved = [self._move_if_better(chosen.name, versions, version, alias)[1] for alias in RULES]
        return [f"Registered: {chosen.name} version {version}. {'; '.join(moved)}."]

    def promote(self, name: str, version: str, alias: str) -> tuple[bool, str]:
        """Move ``alias`` to ``version`` if that version is better by the alias's rule; see ``Tracker.promote``."""
        if alias not in RULES:
            raise InputError(f"there is no alias {alias}; there are {', '.join(RULES)}")
        versions = self.versions(name)
        if version not in versions:
            there = f"versions {', '.join(sorted(versions, key=int))}" if versions else "no version"
            raise InputError(f"the registry at {self.uri} has {there} of {name!r}, and not {version}")
        return self._move_if_better(name, versions, version, alias)

    def _move_if_better(self, name: str, versions: Mapping[str, Tags], version: str, alias: str) -> tuple[bool, str]:
        new, holder = versions[version], self.holder(name, alias)
        if holder == version:
            return True, f"{alias} stands at version {version} already"
        if new.get("within_budget") != "true":
            return False, f"version {version} misses the budget that it was made for ({new.get('budget')})"
        if not self.complete(name, version):
            return False, f"version {version} was not logged completely; python -m src.sync does it, or search again"
        reason = None if holder is None else objection(alias, new, versions[holder])
        if reason is not None:
            return False, f"{alias} stays at version {holder}: {reason}; the rule is {RULES[alias].text}"
        self.move(name, alias, version)
        return True, f"{alias} moved to version {version}" + (f" from {holder}" if holder else "")


def tags_of(chosen: Registration) -> dict[str, str]:
    """Return what a version says of itself: its measurement, and the question that it answers."""
    return {
        **{key: str(getattr(chosen.row, key)) for key in FROM_ROW},
        **{key: str(value) for key, value in chosen.row.numbers().items()},
        "objective": chosen.objective,
        "budget": json.dumps(dict(chosen.budget)),
        "within_budget": "true",
        "command": chosen.command,
        "git_commit": chosen.git_commit or "",
    }


def model_card(chosen: Registration) -> str:
    """Return what a registered model is, in Markdown: its origin, and its numbers on each target."""
    row = chosen.row
    heads = ["target", "runtime", "precision", "accuracy (test)", "accuracy (validation)", "bytes", "gzipped"]
    lines = [
        f"# {chosen.name}: {row.variant}",
        "",
        f"{row.model} on {row.data}, stage `{row.identity}`, commit {chosen.git_commit or 'unknown'}.",
        f"Made by: `{chosen.command}`",
        f"Budget: {json.dumps(dict(chosen.budget))} (accuracy on validation data)",
        f"Choices: {json.dumps(dict(chosen.point))}",
        "",
        _line([*heads, "latency p50"]),
        "|---" * (len(heads) + 1) + "|",
        *(_line(_cells(each)) for each in chosen.rows),
        "",
        f"Measured on {row.machine}, each number on the file of its target.",
    ]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    target = f"{row.target} (baseline)" if row.variant == "baseline" else row.target
    return [
        target,
        str(row.runtime),
        str(row.precision),
        *(BY_NAME[column].text([getattr(row, column)]) for column in CARD_COLUMNS),
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
