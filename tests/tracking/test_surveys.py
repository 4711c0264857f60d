"""The file that names the parent run of a survey."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.tracking.surveys import PARENT, forget_parent, open_parent, read_parent

URI = "sqlite:///mlflow.db"


def test_the_first_member_opens_the_parent_run_and_the_others_find_it(tmp_path: Path) -> None:
    opened: list[str] = []

    def create(key: str) -> str:
        opened.append(key)
        return "run"

    assert read_parent(tmp_path, URI) is None
    assert [open_parent(tmp_path, URI, create) for _ in range(3)] == ["run"] * 3
    assert len(opened) == 1
    found = read_parent(tmp_path, URI)
    assert found is not None
    assert (found.run_id, found.uri, found.key) == ("run", URI, opened[0])
    forget_parent(tmp_path)
    assert read_parent(tmp_path, URI) is None


def test_a_command_that_is_killed_while_it_asks_the_store_leaves_the_key_to_the_next(tmp_path: Path) -> None:
    keys: list[str] = []

    def killed(key: str) -> str:
        keys.append(key)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_parent(tmp_path, URI, killed)
    assert read_parent(tmp_path, URI) is None  # the store has not given it an identifier
    assert open_parent(tmp_path, URI, lambda key: f"run of {key}") == f"run of {keys[0]}"


def test_a_parent_of_another_store_is_none_of_this_one(tmp_path: Path) -> None:
    open_parent(tmp_path, "sqlite:///other.db", lambda _: "other")
    assert read_parent(tmp_path, URI) is None
    assert open_parent(tmp_path, URI, lambda _: "mine") == "mine"


@pytest.mark.parametrize("content", [b"", b"run", b"\xff\xfe\nx\ny", f"run\n{URI}\n\n".encode()])
def test_a_damaged_file_names_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PARENT).write_bytes(content)
    assert read_parent(tmp_path, URI) is None


def test_a_file_of_before_runs_had_keys_is_read(tmp_path: Path) -> None:
    (tmp_path / PARENT).write_text(f"run\n{URI}\n")
    found = read_parent(tmp_path, URI)
    assert found is not None
    assert (found.run_id, found.key) == ("run", "run")
