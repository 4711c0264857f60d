"""Whether a command runs in the Python of this project; standard library alone, and syntax of old Pythons."""

import importlib.util
import sys
from pathlib import Path
from typing import Optional

OLDEST = (3, 11)
NEEDED = ("hydra", "omegaconf", "torch")
PYTHON = Path(__file__).parent.parent.parent / ".venv" / "bin" / "python"


def wrong_python() -> Optional[str]:  # noqa: UP045
    """The line that says which Python to take instead; None if this one will do."""
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"This is Python {version}, and at least {'.'.join(map(str, OLDEST))} is needed: {_way()}"
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            return f"{sys.executable} has no package '{name}', so it is not this project's Python: {_way()}"
    return None


def _way() -> str:
    made = PYTHON.is_file() and Path(sys.prefix) != PYTHON.parent.parent
    return f"run the command with {PYTHON}" if made else "make test installs all that is needed into .venv"
