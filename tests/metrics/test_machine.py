"""The machine of a figure, in one line."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.metrics.machine import machine


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    """The line is read once in a process."""
    machine.cache_clear()
    yield
    machine.cache_clear()


def test_processor_cores_and_system_are_one_line() -> None:
    name, cores, system = machine().rsplit(", ", 2)
    assert name.strip()
    assert cores == f"{len(os.sched_getaffinity(0))} cores"
    assert system == f"{platform.system()} {platform.machine()}"
    assert "\n" not in machine()


def test_the_processors_own_name_stands_before_that_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor : 0\nmodel name\t: Cortex-A57 @ 1.43GHz\nprocessor : 1\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert machine().startswith("Cortex-A57 @ 1.43GHz, ")


def test_without_a_list_of_processors_the_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert machine().startswith(f"{platform.processor() or platform.machine()}, ")
