"""One file of an image, read as it is meant: upright, on a defined background, its greys scaled to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.contracts import InputError, Preparation

if TYPE_CHECKING:
    from PIL import Image

MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112  # the EXIF tag
BITS_PER_SAMPLE = 258  # the TIFF tag
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # the TIFF tag, and its value where 0 is white; Pillow inverts 8 bits alone
NO_DATA = 42113  # GDAL's TIFF tag: the value of pixels without data, as text
MISSING = 1e30  # values beyond it, such as -3.4e38, mark pixels without data
DEEP = ("I", "F")  # first letters of Pillow's modes of more than 8 bits
LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".ppm", ".mpo"}  # endings of 8 bits and no more


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
        size: ``(width, height)``, turned upright.
        mode: Pillow's mode: ``RGB``, ``RGBA``, ``L``, ``I;16``, …
        turned: Whether its EXIF orientation turns or mirrors it.
        transparent: Whether it has transparent pixels, or could have.
    """

    size: tuple[int, int]
    mode: str
    turned: bool
    transparent: bool


def header(path: Path) -> Header:
    """Read a file's header.

    Raises:
        OSError: The file is no image.
    """
    from PIL import Image

    with Image.open(path) as image:
        turn = _orientation(image)
        lying = turn >= 5 and image.format != "TIFF"  # Pillow says the size of a TIFF file turned upright
        size = (image.size[1], image.size[0]) if lying else image.size
        return Header(size, image.mode, turn in _turns(), image.has_transparency_data)


def read(path: Path, mode: str, how: Preparation) -> Image.Image:
    """Read a file as an upright image of ``mode`` (``L`` or ``RGB``), not resized.

    Raises:
        InputError: The image is too large, or its greys have no known range; the message does not name the file.
        Exception: The file is damaged; decoders raise many types.
    """
    from PIL import Image

    try:
        with path.open("rb") as file, Image.open(file) as image:
            # A TIFF file is turned upright here; of a path Pillow 13 would map it into memory, with its sides confused.
            image.load()
            return _composed(_eight_bits(_upright(image), how), how.background).convert(mode)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise InputError(f"it has more than the {most} megapixels that are read; make it smaller first") from error


@dataclass(frozen=True)
class Greys:
    """The range that becomes black to white in one grey file of more than 8 bits.

    Attributes:
        low, high: The declared bit depth if it is less than its storage's, e.g. 12 of 16 bits; else the lowest and the
            highest value of the image.
        declared: Whether it is the declared depth.
        missing: Whether pixels without data were left out: values beyond ``MISSING``, and the file's own mark of them.
    """

    low: float
    high: float
    declared: bool
    missing: bool = False


def value_range(path: Path) -> Greys | None:
    """The range of a grey file of more than 8 bits; None for other files, and if it holds no number."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        if not image.mode.startswith(DEEP):
            return None
        bits = _declared_bits(image)
        if bits is not None and bits < 16:
            return Greys(0.0, float(2**bits - 1), declared=True)
        values = np.asarray(image)
        values = values[np.isfinite(values)]
        known = values[(np.abs(values.astype(np.float64)) < MISSING) & ~_without_data(image, values)]
        missing = len(known) < len(values)
        return Greys(float(known.min()), float(known.max()), False, missing) if len(known) else None


def may_be_deep(path: Path) -> bool:
    """Whether files of this ending can hold greys of more than 8 bits."""
    return path.suffix.lower() not in LOSSY


def _turns() -> dict[int, Image.Transpose]:
    """What turns an image of each EXIF orientation upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if the file says none that can be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # parsers of damaged EXIF data raise many types; the pixels are still good
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _turns().get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, how: Preparation) -> Image.Image:
    """Scale a grey image of more than 8 bits to 8 bits; Pillow would clip it to black or white.

    Pixels that the file marks as without data become transparent.
    """
    import numpy as np
    from PIL import Image

    if not image.mode.startswith(DEEP):
        marked = NO_DATA in getattr(image, "tag_v2", {}) and image.mode in MODES.values()
        if marked and (empty := _without_data(image, np.asarray(image))).any():
            image.putalpha(Image.fromarray(np.where(empty, 0, 255).astype(np.uint8)))
        return image
    bits = _declared_bits(image)
    declares_less = bits is not None and bits < 16
    known = None if how.own_depth and declares_less else how.pixel_range
    low, high = known or _declared_range(image)
    values = np.asarray(image).astype(np.float64)
    numbers = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = ((numbers - low) * (255 / (high - low))).clip(0, 255)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = 255 - scaled
    grey = Image.fromarray(np.rint(scaled).astype(np.uint8))
    clear = image.info.get("transparency")  # of a 16-bit PNG: the one value that is transparent
    empty = values == clear if isinstance(clear, int) else _without_data(image, values)
    if empty.any():
        grey.putalpha(Image.fromarray(np.where(empty, 0, 255).astype(np.uint8)))
    return grey


def _without_data(image: Image.Image, values: Any) -> Any:
    """Where the pixels of a TIFF file have no data, as GDAL's tag marks them: in every channel its value, or NaN.

    Args:
        image: The opened file.
        values: Its pixels, ``[height, width]`` or ``[height, width, channels]``, or some of them.

    Returns:
        A mask of pixels, or of ``values`` if they are a list of greys.
    """
    import numpy as np

    said = getattr(image, "tag_v2", {}).get(NO_DATA)
    try:
        mark = float(str(said).strip("\0 "))
    except ValueError:  # there is no tag, or it holds no number
        return np.zeros(values.shape[:2], bool)
    if values.dtype == np.float32 or image.mode == "F":
        mark = float(np.float32(mark))  # GDAL writes more digits than the pixels hold
    empty = np.isnan(values) if np.isnan(mark) else values == mark
    return empty.all(axis=2) if empty.ndim == 3 else empty


def _declared_range(image: Image.Image) -> tuple[float, float]:
    bits = _declared_bits(image)
    if bits is None or bits > 16:
        raise InputError(
            "its greys have more than 16 bits, and nothing says which are black and white: data.pixel_range=[low,high]"
        )
    return 0.0, float(2**bits - 1)


def _declared_bits(image: Image.Image) -> int | None:
    """Bits of a grey value as the file declares them; None for floats, and if it says nothing."""
    if image.mode.startswith("F"):
        return None
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        declared = tags.get(BITS_PER_SAMPLE)
        return int(declared[0]) if declared else None
    return 16  # PNG, PGM and JPEG 2000 as Pillow decodes them


def _composed(image: Image.Image, background: int | None) -> Image.Image:
    """Lay a transparent image on a grey background."""
    if background is None or not image.has_transparency_data:
        return image
    from PIL import Image

    below = Image.new("RGBA", image.size, (background, background, background, 255))
    below.alpha_composite(image.convert("RGBA"))
    return below.convert("RGB")
