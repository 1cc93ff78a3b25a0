"""``data.image_size``, and what is said of files that are not where, or not what, a data set wants."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcp_core.config import DataConfig
from gcp_core.data import load_splits
from gcp_core.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    load_splits.cache_clear()


def write(folder, split, *, label="label", labels=(0, 1) * 4):
    """Eight images of two sizes, red on the left and blue on the right."""
    folder.mkdir(exist_ok=True)
    encoded = []
    for width in (12, 16) * 4:
        image, buffer = Image.new("RGB", (width, 8), (255, 0, 0)), io.BytesIO()
        image.paste((0, 0, 255), (width // 2, 0, width, 8))
        image.save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"image": encoded, label: list(labels)}), folder / f"{split}.parquet")


def load(folder, **more):
    return load_splits(DataConfig("parquet", path=str(folder), val_images=2, **more))


def test_parquet_images_of_several_sizes_are_resized_and_cut_as_image_folders_are(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split)
    splits = load(tmp_path, image_size=4)
    assert splits.image_size == (4, 4)
    # 12 x 8 becomes 6 x 4, of which the columns 1 to 4 stay: half of them red, half blue.
    assert splits.test.images[0, 0, 0].tolist() == [255, 0, 0]
    assert splits.test.images[0, 0, 3].tolist() == [0, 0, 255]
    assert load(tmp_path, image_size=6).image_size == (6, 6), "each size has its own place in the cache"


def test_parquet_images_of_several_sizes_name_the_key_that_resizes_them(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split)
    with pytest.raises(
        DataError, match=r"row 1 is \(8, 16\), the first image \(8, 12\) \(set data\.image_size\)"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_size_is_refused_where_nothing_is_resized(name, tmp_path):
    """It was accepted, and the images stayed as they were."""
    with pytest.raises(
        DataError, match=rf"data\.image_size: 32: {name} images are taken as they are \(null;"
    ):
        load_splits(DataConfig(name, path=str(tmp_path), image_size=32))


def test_files_one_folder_further_down_are_named(tmp_path):
    """As in the data sets of the Hugging Face hub that have a folder for each of their configurations."""
    write(tmp_path / "plain_text", "train-00000-of-00001")
    with pytest.raises(
        DataError, match=r"found no parquet files\) \(there are some in \S+plain_text: is that"
    ):
        load(tmp_path)


def test_a_split_that_is_missing_beside_another_one_is_not_looked_for_elsewhere(tmp_path):
    write(tmp_path, "train")
    with pytest.raises(DataError, match=r"no test\*.*found train\.parquet\) \(a set without this split"):
        load(tmp_path)


def test_a_column_of_another_name_says_what_to_do(tmp_path):
    write(tmp_path, "train", label="species")
    write(tmp_path, "test", label="species")
    with pytest.raises(DataError, match=r"\(has image, species\) \(rename the column of the labels, or read"):
        load(tmp_path)


def test_labels_that_are_names_say_which_numbers_are_wanted(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, labels=["ant", "bee"] * 4)
    with pytest.raises(
        DataError, match=r"row 0 has label 'ant', not a whole number \(one label an image, 0 \.\."
    ):
        load(tmp_path, image_size=4)


def test_an_image_folder_without_splits_is_told_what_is_there(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        DataError, match=r"a test or val folder \(found cat, dog\) \(each holds a folder per class"
    ):
        load_splits(DataConfig("imagefolder", path=str(tmp_path)))
