"""One file as it is meant: upright, on its background, with its greys."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.contracts import STRETCHED, InputError, Preparation
from src.data import decoding
from src.data.decoding import decode_images, range_of
from src.data.pixels import header, read, value_range

WHITE = Preparation(background=255)
CORNER = np.array([[200, 10, 10, 10], [10, 10, 10, 10]], np.uint8)  # bright at the top left, wider than high


def pixels(path: Path, how: Preparation = WHITE, mode: str = "L") -> np.ndarray:
    return np.asarray(read(path, mode, how))


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, CORNER),
        (2, CORNER[:, ::-1]),
        (3, CORNER[::-1, ::-1]),
        (4, CORNER[::-1]),
        (5, CORNER.T),
        (6, np.rot90(CORNER, 1)),
        (7, CORNER[::-1, ::-1].T),
        (8, np.rot90(CORNER, -1)),
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_a_file_of_any_exif_orientation_is_turned_upright(
    tmp_path: Path, orientation: int, turned: np.ndarray, ending: str
) -> None:
    """``turned`` is what the camera wrote when it was held so; read, it is the scene again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    image = Image.fromarray(np.ascontiguousarray(turned))
    image.convert("RGB" if ending == "webp" else "L").save(tmp_path / f"x.{ending}", exif=exif, **options)
    np.testing.assert_array_equal(pixels(tmp_path / f"x.{ending}"), CORNER)
    assert header(tmp_path / f"x.{ending}").size == (4, 2)


def test_damaged_exif_data_costs_no_image(tmp_path: Path) -> None:
    Image.fromarray(CORNER).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 9)
    np.testing.assert_array_equal(pixels(tmp_path / "x.png"), CORNER)


@pytest.mark.parametrize("background", [0, 128, 255])
def test_a_black_drawing_on_nothing_is_a_drawing_on_the_background(tmp_path: Path, background: int) -> None:
    alpha = np.array([[255, 0], [0, 0]], np.uint8)
    Image.merge("RGBA", [Image.new("L", (2, 2))] * 3 + [Image.fromarray(alpha)]).save(tmp_path / "x.png")
    found = pixels(tmp_path / "x.png", Preparation(background=background), "RGB")
    assert found[..., 0].tolist() == [[0, background], [background, background]]


def test_a_half_transparent_pixel_is_half_of_the_background(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "x.png")
    assert pixels(tmp_path / "x.png")[0, 0] == pytest.approx(255 * 127 / 255, abs=1)


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB"])
def test_every_kind_of_transparency_is_composed(tmp_path: Path, mode: str) -> None:
    if mode == "LA":
        Image.new("LA", (2, 2), (0, 0)).save(tmp_path / "x.png")
    else:
        image = Image.new(mode, (2, 2), 0)
        image.save(tmp_path / "x.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert pixels(tmp_path / "x.png").tolist() == [[255, 255], [255, 255]]


def test_opaque_pixels_keep_their_values(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    noise[..., 3] = 255
    Image.fromarray(noise).save(tmp_path / "x.png")
    np.testing.assert_array_equal(pixels(tmp_path / "x.png", WHITE, "RGB"), noise[..., :3])


# Greys of more than 8 bits ------------------------------------------------------------------------

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def twelve_bits(path: Path, values: np.ndarray) -> None:
    """A TIFF file whose greys are packed in 12 bits each, as some cameras write it; Pillow writes none."""
    flat = values.astype(np.uint16).reshape(-1, 2)
    packed = np.stack([flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255], 1).astype(np.uint8)
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, height)]
    tags.append((279, packed.size))
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + packed.tobytes())


def write_deep(path: Path, kind: str, scale: float) -> None:
    """``RAMP`` times ``scale`` as a file of a kind."""
    values = RAMP * scale
    if kind == "12 bits":
        twelve_bits(path.with_suffix(".tif"), values)
    elif kind == "float":
        Image.fromarray(values.astype(np.float32)).save(path.with_suffix(".tif"))
    elif kind == "32 bits":
        Image.fromarray(values.astype(np.int32)).save(path.with_suffix(".tif"))
    else:
        Image.fromarray(values.astype(np.uint16)).save(path.with_suffix(".png"))


@pytest.mark.parametrize(("kind", "scale"), [("12 bits", 4095), ("16 bits", 65535)])
def test_without_a_range_the_declared_bit_depth_counts(tmp_path: Path, kind: str, scale: float) -> None:
    write_deep(tmp_path / "x", kind, scale)
    (path,) = tmp_path.iterdir()
    np.testing.assert_allclose(pixels(path, STRETCHED), RAMP * 255, atol=1)


@pytest.mark.parametrize("kind", ["32 bits", "float"])
def test_without_a_range_greys_that_declare_none_are_refused(tmp_path: Path, kind: str) -> None:
    write_deep(tmp_path / "x", kind, 1000)
    (path,) = tmp_path.iterdir()
    with pytest.raises(InputError, match=r"x.tif cannot be read as an image .*data.pixel_range=\[low,high\]"):
        decode_images([path], (8, 8), "L", "x")


@pytest.mark.parametrize(
    ("kind", "scales", "expected"),
    [
        ("12 bits", (2000, 3000), (0, 4095)),
        ("16 bits", (1000, 4000), (0, 4000)),  # 12 bits in files of 16
        ("32 bits", (500, 70000), (0, 70000)),
        ("float", (0.5, 1.0), (0, 1)),
    ],
)
def test_one_range_is_measured_for_all_files(
    tmp_path: Path, kind: str, scales: tuple[float, float], expected: tuple[float, float]
) -> None:
    for scale in scales:
        write_deep(tmp_path / f"{scale}", kind, scale)
    paths = sorted(tmp_path.iterdir(), key=lambda path: float(path.stem))
    found, _ = range_of(paths)
    assert found == expected
    images = decode_images(paths, (8, 8), "L", "x", Preparation(pixel_range=found))
    for image, scale in zip(images[:, 0], scales, strict=True):
        np.testing.assert_allclose(image.numpy(), RAMP * scale * 255 / expected[1], atol=1)


def test_ordinary_files_have_no_range(tmp_path: Path) -> None:
    Image.fromarray(CORNER).save(tmp_path / "x.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert range_of([tmp_path / "x.png", tmp_path / "broken.png"]) == (None, [])


def test_files_of_a_declared_depth_beside_others_are_scaled_by_their_own(tmp_path: Path) -> None:
    write_deep(tmp_path / "a", "12 bits", 4095)
    write_deep(tmp_path / "b", "16 bits", 50000)
    paths = [tmp_path / "a.tif", tmp_path / "b.png"]
    found, lines = range_of(paths)
    assert found == (0, 50000)
    assert lines[1] == "1 grey files declare how many bits they have and are scaled by these: 0 to 4095"
    for image in decode_images(paths, (8, 8), "L", "x", Preparation(pixel_range=found, own_depth=True)):
        np.testing.assert_allclose(image[0].numpy(), RAMP * 255, atol=1)
    (typed,) = decode_images(paths[:1], (8, 8), "L", "x", Preparation(pixel_range=(0, 8190)))
    np.testing.assert_allclose(typed[0].numpy(), RAMP * 127.5, atol=1)


def test_a_pixel_without_data_does_not_widen_the_range(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[3, 3] = -3.4e38
    Image.fromarray(values).save(tmp_path / "x.tif")
    found, lines = range_of([tmp_path / "x.tif"])
    assert found == (0, 1)
    assert lines[1].startswith("1 grey files hold values beyond ±1e30")


def test_a_deep_grey_png_with_a_transparent_value_is_composed(tmp_path: Path) -> None:
    values = np.array([[1000, 0], [0, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png", transparency=1000)
    with Image.open(tmp_path / "x.png") as image:
        assert image.info["transparency"] == 1000
    assert pixels(tmp_path / "x.png").tolist() == [[255, 0], [0, 255]]
    assert pixels(tmp_path / "x.png", Preparation(background=128)).tolist() == [[128, 0], [0, 255]]


def test_a_deep_tiff_file_whose_0_is_white_is_inverted(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [65535, 65535]], np.uint16)).save(tmp_path / "x.tif", tiffinfo={262: 0})
    assert pixels(tmp_path / "x.tif").tolist() == [[255, 0], [0, 0]]


def test_values_beyond_the_range_and_no_numbers_are_black_or_white(tmp_path: Path) -> None:
    values = np.array([[np.nan, -5.0], [2.0, np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert pixels(tmp_path / "x.tif", Preparation(pixel_range=(0, 1))).tolist() == [[0, 0], [255, 255]]


# Files that cannot be read ------------------------------------------------------------------------


def test_a_huge_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (20, 20)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match=r"huge.png cannot be read as an image \(it has more than the 0 megapixels"):
        decode_images([tmp_path / "huge.png"], (8, 8), "L", "x")


def test_several_broken_files_are_counted(tmp_path: Path) -> None:
    for at in range(3):
        (tmp_path / f"{at}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0.png cannot be read as an image .*, and so are 2 more"):
        decode_images(sorted(tmp_path.iterdir()), (8, 8), "L", "x")


@pytest.mark.parametrize("ending", ["jfif", "avif", "jp2"])
def test_files_of_rarer_endings_are_read(tmp_path: Path, ending: str) -> None:
    form = {"jfif": "JPEG", "avif": "AVIF", "jp2": "JPEG2000"}[ending]
    Image.new("RGB", (16, 16), (90, 90, 90)).save(tmp_path / f"x.{ending}", form)
    assert abs(int(pixels(tmp_path / f"x.{ending}")[8, 8]) - 90) <= 2


def test_old_caches_of_stretched_images_are_found_and_new_preparations_are_not_taken_for_them() -> None:
    assert decoding._manner(STRETCHED) == "Resizing(interpolation='bilinear', crop=None)"
    assert decoding._manner(WHITE) == "Resizing(interpolation='bilinear', crop=None){'background': 255}"


# Pixels without data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        (np.array([[-9999, 0], [5, 10]], np.float32), "-9999"),
        (np.array([[np.nan, 0], [5, 10]], np.float32), "nan"),
        (np.array([[-3.4028235e38, 0], [5, 10]], np.float32), "-3.4028234663852886e+38\0"),
        (np.array([[65535, 0], [5, 10]], np.uint16), "65535"),
        (np.array([[7, 0], [128, 255]], np.uint8), "7"),
    ],
)
def test_what_gdal_marks_as_no_data_is_background_and_counts_for_no_range(
    tmp_path: Path, values: np.ndarray, mark: str
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={42113: mark})
    how = Preparation(background=99, pixel_range=(0, 10))
    assert pixels(tmp_path / "x.tif", how).tolist() == [[99, 0], [128, 255]]
    found = value_range(tmp_path / "x.tif")
    assert found is None or (found.low, found.high) == (0, 10)


def test_a_colour_pixel_has_no_data_if_every_channel_says_so(tmp_path: Path) -> None:
    values = np.array([[[0, 0, 0], [0, 9, 0]]], np.uint8)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={42113: "0"})
    assert pixels(tmp_path / "x.tif", Preparation(background=99), "RGB").tolist() == [[[99, 99, 99], [0, 9, 0]]]


def test_a_mark_that_is_no_number_marks_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.array([[3, 200]], np.uint8)).save(tmp_path / "x.tif", tiffinfo={42113: "none"})
    assert pixels(tmp_path / "x.tif").tolist() == [[3, 200]]
