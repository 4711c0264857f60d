"""What the user is told if a file cannot be packed or unpacked."""

from __future__ import annotations

from src.contracts.errors import InputError


class DnncError(InputError):
    """The file cannot be packed or unpacked; the message says why, in one line (exit 2)."""
