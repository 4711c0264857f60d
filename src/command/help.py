"""Help that starts fast: what there is in each group of ``conf/``, a line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from src.command import exits
from src.command.exits import CONF


def wanted() -> bool:
    """Whether the command line asks for help."""
    return bool({"--help", "-h"} & set(sys.argv[1:]))


def described(group: str) -> list[tuple[str, str]]:
    """Each config of a group with the comment in its first line."""
    found = []
    for path in sorted((CONF / group).glob("*.yaml")):
        comments = [
            line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")
        ]
        lines = [line for line in comments if not line.startswith("@package")]
        found.append((path.stem, lines[0] if lines else ""))
    return found


def help_text(usage: str, groups: Sequence[str]) -> str:
    """Usage, each group's configs with a line each, and the exit codes."""
    lines = [usage.rstrip(), ""]
    for group in groups:
        rows = described(group)
        width = max((len(name) for name, _ in rows), default=0)
        lines += [f"{group}:", *(f"  {name.ljust(width)}  {text}" for name, text in rows), ""]
    lines += (exits.__doc__ or "").strip().splitlines()[2:]
    lines.append("Hydra's own options: --cfg job shows the composed config, --hydra-help the rest.")
    return "\n".join(lines)
