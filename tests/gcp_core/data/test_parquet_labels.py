"""Parquet files: whose labels and class names are read, and how many files are open."""

import io
import json
import shutil
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcp_core.config import DataConfig
from gcp_core.data import load_splits, parquet
from gcp_core.errors import DataError


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that writes 8 training and 4 test images with these columns and what the set says of them, and loads
    them."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 60)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}

    def load(features, **columns):
        for split, number in (("train", 8), ("test", 4)):
            own = {name: values[:number] for name, values in columns.items()}
            table = pa.table({"image": [image] * number, **own})
            info = {"huggingface": json.dumps({"info": {"features": features}})}
            pq.write_table(table.replace_schema_metadata(info), tmp_path / f"{split}.parquet")
        return load_splits(DataConfig("parquet", path=str(tmp_path), val_images=2))

    return load


def test_class_names_are_those_of_the_column_that_is_read(load):
    """``label`` goes before ``fine_label``: that one's four names say nothing about its two classes."""
    fine = {"names": ["ant", "bee", "cat", "dog"], "_type": "ClassLabel"}
    features = {"label": {"dtype": "int64", "_type": "Value"}, "fine_label": fine}
    splits = load(features, label=[0, 1] * 4, fine_label=[0, 1, 2, 3] * 2)
    assert (splits.num_classes, splits.class_names) == (2, ())
    assert splits.train.all_labels.tolist() == [0, 1] * 4


def test_several_labels_for_an_image_are_refused_with_the_row(load):
    features = {"labels": [{"names": ["ant", "bee"], "_type": "ClassLabel"}]}
    with pytest.raises(DataError, match=r"row 0 has label \[0, 1\], not a whole number"):
        load(features, labels=[[0, 1]] * 8)


def test_files_are_not_held_open_beside_each_other(tmp_path, monkeypatch, load):
    """A set may have more files than a process may have open."""
    features = {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    load(features, label=[0, 1] * 4)
    for number in range(5):
        shutil.copy(tmp_path / "train.parquet", tmp_path / f"train-{number}.parquet")
    held, numbers, open_file = weakref.WeakSet(), [], parquet._open

    def watched(file):
        numbers.append(len(held))
        table = open_file(file)
        held.add(table)
        return table

    monkeypatch.setattr(parquet, "_open", watched)
    load_splits.cache_clear()
    splits = load_splits(DataConfig("parquet", path=str(tmp_path), val_images=2))
    assert len(splits.train) + len(splits.val) == 6 * 8
    assert len(numbers) > 6
    # The one before may still be there while the next one is opened.
    assert max(numbers) <= 2
