"""How many channels a set of image files has, and what becomes of palettes, transparency and 16 bits."""

import io
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcp_core.config import DataConfig
from gcp_core.data import load_splits
from gcp_core.data.decode import decode_image
from gcp_core.errors import ConfigError, DataError

RED, GREY = (200, 30, 60), 90


def solid(colour, mode="RGB"):
    return Image.new(mode, (6, 5), colour)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def decoded(image, channels=3, kind="PNG"):
    return decode_image(io.BytesIO(encoded(image, kind)), "the image", "set", channels)


@pytest.fixture
def write_set(tmp_path, monkeypatch):
    """A function that writes training and test images, in folders or as parquet, and says how to load them."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))

    def write(name, train, test, **options):
        root = tmp_path / "set"
        for split, images in (("train", train), ("test", test)):
            if name == "parquet":
                root.mkdir(exist_ok=True)
                rows = [{"bytes": encoded(image), "path": None} for image in images]
                table = pa.table({"img": rows, "label": [i % 2 for i in range(len(rows))]})
                pq.write_table(table, root / f"{split}.parquet")
                continue
            for i, image in enumerate(images):
                path = root / split / "ab"[i % 2] / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(image))
        return DataConfig(name, path=str(root), val_images=2, **options)

    return write


GREYS, REDS = [solid(GREY, "L")] * 4, [solid(RED)] * 4


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
@pytest.mark.parametrize(
    ("train", "test"),
    [(GREYS[:1] + REDS, REDS), (REDS, GREYS[:1] + REDS), (REDS, GREYS), (GREYS, REDS)],
    ids=["grey first in train", "grey first in test", "grey test", "grey train"],
)
def test_one_colour_image_anywhere_makes_a_set_rgb(write_set, name, train, test):
    splits = load_splits(write_set(name, train, test))
    assert splits.in_channels == 3
    for images, given in ((splits.train.pixels, train), (splits.test.pixels, test)):
        found = {tuple(image[0, 0].tolist()) for image in images}
        assert found == {RED if image.mode == "RGB" else (GREY,) * 3 for image in given}


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_a_set_of_grey_files_has_one_channel(write_set, name):
    splits = load_splits(write_set(name, GREYS, [solid((GREY, 255), "LA")] * 2))
    assert splits.in_channels == 1
    assert set(splits.train.pixels.ravel().tolist()) == set(splits.test.pixels.ravel().tolist()) == {GREY}


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_the_number_of_channels_can_be_said(write_set, name):
    config = write_set(name, REDS, REDS, channels=1)
    grey = load_splits(config)
    assert grey.in_channels == 1
    # ITU-R 601: 0.299 * 200 + 0.587 * 30 + 0.114 * 60 = 84.25
    assert set(grey.train.pixels.ravel().tolist()) == {84}
    # The same files, decoded another way: not what the cache holds.
    assert load_splits(replace(config, channels=3)).in_channels == 3


def test_grey_files_can_be_asked_for_in_rgb(write_set):
    assert load_splits(write_set("imagefolder", GREYS, GREYS, channels=3)).in_channels == 3


@pytest.mark.parametrize("channels", [2, 4, "rgb", True])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ConfigError, match=r"data\.channels"):
        DataConfig(channels=channels)


def test_a_source_that_has_its_own_number_of_channels_is_not_turned_into_another():
    with pytest.raises(DataError, match=r"data\.channels: 3 channels .* digits have 1"):
        load_splits(DataConfig(channels=3))


def test_keys_of_configurations_that_do_not_say_the_channels_are_as_before():
    from gcp_core.config import TrialConfig

    assert "channels" not in TrialConfig().identity()["data"]
    assert TrialConfig(data=DataConfig(channels=3)).key() != TrialConfig().key()


def palette(colours, transparent=None):
    image = Image.new("P", (6, 5), 0)
    image.putpalette([value for colour in colours for value in colour])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (palette([RED, (0, 0, 0)]), RED),
        # What is transparent shows white, not the colour that happens to be hidden there.
        (palette([RED, (0, 0, 0)], transparent=b"\x00\xff"), (255, 255, 255)),
        (solid((*RED, 0), "RGBA"), (255, 255, 255)),
        (solid((*RED, 255), "RGBA"), RED),
        (solid((GREY, 255), "LA"), (GREY,) * 3),
        (solid(40_000, "I;16"), (156,) * 3),  # 40,000 / 256 = 156.25
        (solid(1, "1"), (255,) * 3),
    ],
    ids=["palette", "palette with a hole", "transparent", "opaque", "grey with alpha", "16 bits", "1 bit"],
)
def test_palettes_transparency_and_deep_greys_become_what_one_sees(image, pixel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decoded(image)
    assert pixels.shape == (5, 6, 3)
    assert {tuple(p) for row in pixels.tolist() for p in row} == {pixel}


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert ramp.mode == "I;16"
    assert decoded(ramp, channels=1).ravel().tolist() == list(range(256))
    # TIFF keeps 32-bit integers, which hold 16-bit values in practice.
    deep = Image.fromarray((np.arange(256, dtype=np.int32) * 257).reshape(16, 16))
    assert decoded(deep, channels=1, kind="TIFF").ravel().tolist() == list(range(256))


@pytest.mark.parametrize("values", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32)])
def test_pixels_of_an_unknown_range_are_refused(values):
    with pytest.raises(DataError, match=r"set: the image cannot be decoded: .*(float|70000)"):
        decoded(Image.fromarray(values), channels=1, kind="TIFF")


def test_a_palette_of_greys_is_grey_and_one_of_colours_is_not(write_set):
    greys = palette([(GREY,) * 3, (0, 0, 0)])
    assert load_splits(write_set("imagefolder", [greys] * 4, GREYS)).in_channels == 1


def test_a_palette_of_colours_is_rgb(write_set):
    assert load_splits(write_set("imagefolder", GREYS, [palette([RED])] * 2)).in_channels == 3


@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_an_image_that_is_too_large_for_pillow_is_refused_with_its_name(write_set, monkeypatch, name):
    """Its error is none of the usual kinds; 30 pixels are more than twice 10."""
    config = write_set(name, REDS, REDS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"(0\.png|row 0).* cannot be decoded: Image size \(30 pixels\)"):
        load_splits(config)
