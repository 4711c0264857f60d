"""The model card of an exported file, as text that any format can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from src.contracts import InputError, ModelCard, Preparation
from src.device import schema
from src.device.schema import TEXT, between, count, read_json

REQUIRED = tuple(field.name for field in fields(ModelCard) if field.name != "preparation")
ALWAYS = ("interpolation", "crop")  # older files have neither: their images were stretched, bilinear
PREPARATION = {field.name: field.default for field in fields(Preparation)}
KEYS = (*REQUIRED, *PREPARATION)
TABLE = {
    "classes": [TEXT],
    "image_shape": [count(1, 65_535)],
    "mean": [between(-1000, 1000)],
    "std": [between(1e-6, 1000)],  # pixels are divided by it
    "identity": TEXT,
}


def to_text(card: ModelCard) -> dict[str, str]:
    """Each field of the card as JSON, by its name; most of the preparation only where it is not the usual one."""
    values = asdict(card)
    how: dict[str, Any] = values.pop("preparation")
    values |= {key: how[key] for key, usual in PREPARATION.items() if key in ALWAYS or how[key] != usual}
    return {key: json.dumps(value) for key, value in values.items()}


def from_text(text: Mapping[str, str], path: Path) -> ModelCard:
    """Read the card that ``to_text`` wrote; ``path`` is the file that it comes from.

    Raises:
        InputError: A field is missing, so the file was not written by this project, or says what cannot be.
    """
    missing = [key for key in REQUIRED if key not in text]
    if missing:
        raise InputError(f"{path} does not say its {', '.join(missing)}: it was not exported by this project")
    try:
        values = {key: read_json(text[key], finite=True) for key in KEYS if key in text}
        schema.check(values, TABLE)
        how = {key: values[key] for key in PREPARATION if key in values}
        if how.get("pixel_range") is not None:
            how["pixel_range"] = (how["pixel_range"][0], how["pixel_range"][1])
        channels, height, width = values["image_shape"]
        if not len(values["mean"]) == len(values["std"]) == channels:
            raise ValueError(f"its images have {channels} channels, and it needs a mean and a std for each")
        return ModelCard(
            tuple(values["classes"]),
            (channels, height, width),
            tuple(values["mean"]),
            tuple(values["std"]),
            values["identity"],
            Preparation(**how),
        )
    except (schema.InputError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path} says of itself what no export of this project does: {error}") from error
