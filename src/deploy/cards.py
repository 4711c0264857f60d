"""What an exported file says of itself, as text that any format can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from src.contracts import InputError, ModelCard

KEYS = ("classes", "image_shape", "mean", "std", "identity")


def to_text(card: ModelCard) -> dict[str, str]:
    """Each field of the card as JSON."""
    return {key: json.dumps(value) for key, value in asdict(card).items()}


def from_text(text: Mapping[str, str], path: Path) -> ModelCard:
    """The card that ``to_text`` wrote.

    Raises:
        InputError: A field is missing: the file was not written by this project.
    """
    missing = [key for key in KEYS if key not in text]
    if missing:
        raise InputError(f"{path} does not say its {', '.join(missing)}: it was not exported by this project")
    fields = {key: json.loads(text[key]) for key in KEYS}
    channels, height, width = fields["image_shape"]
    return ModelCard(
        tuple(fields["classes"]),
        (channels, height, width),
        tuple(fields["mean"]),
        tuple(fields["std"]),
        fields["identity"],
    )
