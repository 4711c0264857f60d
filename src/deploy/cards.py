"""The model card of an exported file, as text that any format can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from src.contracts import InputError, ModelCard

KEYS = tuple(field.name for field in fields(ModelCard))


def to_text(card: ModelCard) -> dict[str, str]:
    """Each field of the card as JSON, by its name."""
    return {key: json.dumps(value) for key, value in asdict(card).items()}


def from_text(text: Mapping[str, str], path: Path) -> ModelCard:
    """Read the card that ``to_text`` wrote; ``path`` is the file that it comes from.

    Raises:
        InputError: A field is missing, so the file was not written by this project.
    """
    missing = [key for key in KEYS if key not in text]
    if missing:
        raise InputError(f"{path} does not say its {', '.join(missing)}: it was not exported by this project")
    values = {key: json.loads(text[key]) for key in KEYS}
    channels, height, width = values["image_shape"]
    return ModelCard(
        tuple(values["classes"]),
        (channels, height, width),
        tuple(values["mean"]),
        tuple(values["std"]),
        values["identity"],
    )
