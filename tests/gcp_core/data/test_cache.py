"""The cache of decoded images: who finds an entry there has asked for this very set."""

import builtins
import errno
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcp_core.config import DataConfig
from gcp_core.data import load_splits
from gcp_core.data.cache import cached
from gcp_core.data.images import RawData
from gcp_core.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty one."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    load_splits.cache_clear()
    return tmp_path / "cache"


def image_set(root: Path, classes: dict[str, list[Path]]) -> DataConfig:
    """An image folder of links, the same images in training and test."""
    for split in ("train", "test"):
        for name, images in classes.items():
            (root / split / name).mkdir(parents=True)
            for image in images:
                (root / split / name / image.name).symlink_to(image)
    return DataConfig("imagefolder", path=str(root), val_images=2)


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Six images of one value each: 0, 10, ... 50."""
    (tmp_path / "pool").mkdir()
    found = [tmp_path / "pool" / f"{number}.png" for number in range(6)]
    for number, path in enumerate(found):
        Image.fromarray(np.full((4, 4, 3), 10 * number, np.uint8)).save(path)
    return found


def labels_of(config: DataConfig) -> dict[int, str]:
    """Value of each test image -> the name of its class."""
    test, names = load_splits(config).test, load_splits(config).class_names
    return {
        int(image.max()): names[int(label)] for image, label in zip(test.images, test.labels, strict=True)
    }


def test_sets_of_links_to_the_same_images_have_the_classes_that_their_own_folders_say(tmp_path, images):
    dark = image_set(tmp_path / "one", {"dark": images[:3], "light": images[3:]})
    other = image_set(tmp_path / "two", {"low": images[:2], "high": images[2:]})
    halves = image_set(tmp_path / "three", {"dark": images[:2], "light": images[2:]})
    assert labels_of(dark) == {0: "dark", 10: "dark", 20: "dark", 30: "light", 40: "light", 50: "light"}
    assert labels_of(other) == {0: "low", 10: "low", 20: "high", 30: "high", 40: "high", 50: "high"}
    assert labels_of(halves) == {0: "dark", 10: "dark", 20: "light", 30: "light", 40: "light", 50: "light"}


def test_an_empty_class_is_noticed_also_where_the_set_was_decoded_without_it(tmp_path, images):
    config = image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]})
    labels_of(config)
    (tmp_path / "set" / "train" / "all").mkdir()
    load_splits.cache_clear()
    with pytest.raises(DataError, match=r"no training image has class 0 \('all'\)"):
        labels_of(config)


def test_a_set_that_was_moved_is_not_decoded_again(tmp_path, images, cache):
    (tmp_path / "here").mkdir()
    config = image_set(tmp_path / "here" / "set", {"dark": images[:3], "light": images[3:]})
    labels_of(config)
    (tmp_path / "here").rename(tmp_path / "there")
    labels_of(DataConfig("imagefolder", path=str(tmp_path / "there" / "set"), val_images=2))
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_links_to_the_same_parquet_files_are_another_set_where_one_more_is_for_training(tmp_path, images):
    rows = [{"bytes": image.read_bytes(), "path": None} for image in images * 2]
    for number in range(3):
        table = pa.table({"img": rows[4 * number : 4 * number + 4], "label": [0, 1, 0, 1]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    sizes = {}
    for name, train in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            split = "train" if number < train else "test"
            (folder / f"{split}-{number}.parquet").symlink_to(tmp_path / f"{number}.parquet")
        splits = load_splits(DataConfig("parquet", path=str(folder), val_images=2))
        sizes[name] = (len(splits.train) + len(splits.val), len(splits.test))
    assert sizes == {"one": (4, 8), "two": (8, 4)}


@pytest.fixture
def umask():
    """0o022, as most have."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_what_is_decoded_is_as_private_as_the_user_s_umask_says(tmp_path, images, cache):
    labels_of(image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]}))
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    assert stat.S_IMODE(entry.stat().st_mode) == 0o755
    assert all(file.stat().st_mode & stat.S_IROTH for file in entry.iterdir())


def test_what_is_decoded_is_read_without_a_lock(tmp_path, images, monkeypatch):
    config = image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]})
    before = labels_of(config)
    load_splits.cache_clear()
    monkeypatch.setattr("gcp_core.data.cache.fcntl.flock", lambda *_: pytest.fail("locked"))
    assert labels_of(config) == before


def test_the_lock_of_a_colleague_need_not_be_writable(tmp_path, images, cache, monkeypatch):
    """As under umask 022; its owner was killed before there was an entry. (Tests may run as root, who may write all.)"""
    config = image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]})
    before = labels_of(config)
    load_splits.cache_clear()
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    shutil.rmtree(entry)
    opened, opened_file = os.open, builtins.open

    def refuse(path: object, writing: bool) -> None:
        if str(path).endswith(".lock") and writing:
            raise PermissionError(13, "Permission denied", str(path))

    def os_open(path, flags, *args, **options):
        refuse(path, bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        return opened(path, flags, *args, **options)

    def open_file(path, mode="r", *args, **options):
        refuse(path, mode != "r")
        return opened_file(path, mode, *args, **options)

    monkeypatch.setattr(os, "open", os_open)
    monkeypatch.setattr(builtins, "open", open_file)
    assert labels_of(config) == before
    assert entry.is_dir()


@pytest.mark.usefixtures("umask")
def test_the_lock_is_open_to_colleagues_whatever_the_umask(tmp_path, images, cache):
    """NFS gives a lock only to those who may write the file."""
    labels_of(image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]}))
    (lock,) = cache.glob("*.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o666


def raw(value: int) -> RawData:
    """Two images of two classes, of this value, for training and for the test."""
    pixels, labels = np.full((2, 4, 4, 1), value, np.uint8), np.arange(2)
    return RawData.build(pixels, labels, pixels, labels)


def refuse_locks(monkeypatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gcp_core.data.cache.fcntl.flock", flock)


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_set_is_decoded_without_a_lock_where_there_is_none_to_be_had(images, cache, monkeypatch, number):
    """EBADF is what NFS says of a colleague's file that can only be read, the others come from systems without locks."""
    refuse_locks(monkeypatch, number)
    assert int(cached(images, lambda _: raw(7)).test_images.max()) == 7
    assert int(cached(images, lambda _: pytest.fail("decoded again")).test_images.max()) == 7
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_any_other_failure_of_the_lock_is_told(images, monkeypatch):
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(DataError, match=r"cannot use the cache folder: .*Input/output error"):
        cached(images, lambda _: pytest.fail("decoded"))


def test_what_another_process_has_decoded_meanwhile_stays(images, cache, monkeypatch):
    """Somebody may be reading it."""
    refuse_locks(monkeypatch, errno.EBADF)
    numbers = []

    def decode(_: Path) -> RawData:
        cached(images, lambda _: raw(1))  # the other one is faster
        (entry,) = cache.glob("*/meta.json")
        numbers.append(entry.parent.stat().st_ino)
        return raw(2)

    assert int(cached(images, decode).test_images.max()) == 1
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    assert [entry.stat().st_ino] == numbers


def test_an_entry_without_its_last_file_is_replaced(images, cache):
    cached(images, lambda _: raw(1))
    (meta,) = cache.glob("*/meta.json")
    meta.unlink()
    assert int(cached(images, lambda _: raw(2)).test_images.max()) == 2


def test_an_image_whose_name_is_no_utf_8_is_one_like_others(tmp_path, images):
    """As archives of older systems hold them."""
    images[0] = images[0].rename(images[0].with_name(os.fsdecode(b"caf\xe9.png")))
    assert set(labels_of(image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]}))) == {
        0, 10, 20, 30, 40, 50,
    }  # fmt: skip


def test_a_link_that_leads_nowhere_is_named(tmp_path, images):
    config = image_set(tmp_path / "set", {"dark": images[:3], "light": images[3:]})
    (tmp_path / "set" / "test" / "light" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png: cannot be read: No such file or directory"):
        load_splits(config)
