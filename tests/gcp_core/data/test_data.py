"""Splits, augmentation, the parquet reader and its cache."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gcp_core.config import DataConfig
from gcp_core.data import RawData, evaluation_batches, load_splits, training_batches
from gcp_core.data.augment import apply_crops, draw_crops
from gcp_core.data.images import channel_statistics
from gcp_core.data.pipeline import num_steps, scoring_sample
from gcp_core.data.split import balanced_choice, stratified_choice
from gcp_core.errors import DataError
from tests.gcp_core.power_cut import PowerCut
from tests.oracles.augment import crop_flip_by_loop

ROOT = Path(__file__).parents[3]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(folder, name, images, labels, column="img"):
    items = [{"bytes": png(i) if isinstance(i, np.ndarray) else i, "path": None} for i in images]
    pq.write_table(pa.table({column: items, "label": labels}), folder / f"{name}.parquet")


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A folder of 40 + 10 random colour images of 6 x 5 pixels in two classes, and a cache of its own."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)
    labels = [i % 2 for i in range(50)]
    write_parquet(folder, "train", images[:40], labels[:40])
    write_parquet(folder, "test", images[40:], labels[40:], column="image")
    return folder, images, labels


def load(folder, **options):
    return load_splits(DataConfig(name="parquet", path=str(folder), val_share=0.25, **options))


def test_a_power_cut_leaves_the_cache_whole(parquet, tmp_path, monkeypatch):
    folder, _, _ = parquet
    power = PowerCut(monkeypatch)
    before = load(folder).train.images
    power.strike(tmp_path / "cache")
    load_splits.cache_clear()  # as another process would
    assert torch.equal(load(folder).train.images, before)


def test_parquet_images_come_back_pixel_by_pixel(parquet):
    folder, images, labels = parquet
    splits = load(folder)
    assert splits.image_size == (6, 5)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (30, 10, 10)
    np.testing.assert_array_equal(splits.test.images.numpy(), images[40:])
    np.testing.assert_array_equal(splits.train.images.numpy(), images[:40][splits.train.rows.numpy()])
    assert splits.test.labels.tolist() == labels[40:]


def test_the_cache_serves_the_second_reading_and_notices_a_changed_file(parquet, monkeypatch):
    folder, images, labels = parquet
    first = load(folder)
    load_splits.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("gcp_core.data.parquet._decode", None)  # decoding again would fail
        assert load(folder).digest == first.digest
    load_splits.cache_clear()
    write_parquet(folder, "train", images[:40][::-1], labels[:40][::-1])
    assert load(folder).digest != first.digest


READER = """
import json, logging, sys
from pathlib import Path
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("gcp_core.data.cache").addHandler(handler)
logging.getLogger("gcp_core.data.cache").setLevel(logging.INFO)
from gcp_core.config import DataConfig
from gcp_core.data import load_splits
print("ready", flush=True)
sys.stdin.readline()
splits = load_splits(DataConfig(name="parquet", path=sys.argv[1], val_share=0.25))
mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".npy")}
decoded = sum(text.startswith("decoding") for text in said)
print(json.dumps({"decoded": decoded, "digest": splits.digest, "mapped": sorted(mapped)}))
"""


def test_processes_that_start_together_decode_once_and_map_the_same_file(parquet):
    folder, *_ = parquet
    command = [sys.executable, "-c", READER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    answers = [json.loads(reader.communicate()[0]) for reader in readers]
    assert sum(answer["decoded"] for answer in answers) == 1
    assert len({answer["digest"] for answer in answers}) == 1
    files = {tuple(answer["mapped"]) for answer in answers}
    assert len(files) == 1, "all of them look at the same pages"
    assert any(name.endswith("train_images.npy") for name in files.pop())


def corrupt_parquet(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 this is no parquet")


def corrupt_page(folder):
    """Its end, which says what is in it, is whole."""
    content = bytearray((folder / "train.parquet").read_bytes())
    content[4:64] = b"\xff" * 60
    (folder / "train.parquet").write_bytes(content)


def corrupt_image(folder):
    write_parquet(folder, "train", [b"no image"] * 40, [0, 1] * 20)


def label_out_of_range(folder):
    images = np.zeros((40, 6, 5, 3), np.uint8)
    write_parquet(folder, "train", images, [0, 1] * 19 + [0, 300])


def negative_label(folder):
    write_parquet(folder, "train", np.zeros((40, 6, 5, 3), np.uint8), [0, 1] * 19 + [0, -1])


def unseen_test_label(folder):
    write_parquet(folder, "test", np.zeros((3, 6, 5, 3), np.uint8), [0, 1, 2])


def unlabelled_test(folder):
    write_parquet(folder, "test", np.zeros((3, 6, 5, 3), np.uint8), [-1, -1, -1])


def two_sizes(folder):
    images = [np.zeros((6, 5, 3), np.uint8)] * 39 + [np.zeros((5, 6, 3), np.uint8)]
    write_parquet(folder, "train", images, [0, 1] * 20)


def no_label_column(folder):
    pq.write_table(pa.table({"img": [{"bytes": b"", "path": ""}]}), folder / "train.parquet")


def no_file(folder):
    (folder / "test.parquet").unlink()


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (corrupt_parquet, "train.parquet: cannot be read as parquet"),
        (corrupt_page, "train.parquet: cannot be read as parquet"),
        (corrupt_image, "train.parquet: the image in row 0 cannot be decoded"),
        (label_out_of_range, "labels run to 300, but no training image has class 2, 3, 4, 5, 6, ..."),
        (negative_label, "label -1 in row 39 is out of range 0..1"),
        (unseen_test_label, "label 2 in row 2 is out of range 0..1"),
        (
            unlabelled_test,
            "(-1 is an image without a label: leave the test files out, validation*.parquet is taken",
        ),
        (two_sizes, "row 39 is (5, 6), the first image (6, 5)"),
        (no_label_column, "no column label or labels or fine_label (has img)"),
        (no_file, "no test*.parquet or validation*.parquet"),
    ],
)
def test_damaged_data_is_refused_with_file_and_row(parquet, harm, text):
    harm(parquet[0])
    load_splits.cache_clear()
    with pytest.raises(DataError) as caught:
        load(parquet[0])
    assert text in str(caught.value)


def test_a_missing_path_is_refused():
    with pytest.raises(DataError, match=r"data\.path: parquet needs the folder of its files"):
        load_splits(DataConfig(name="parquet"))
    with pytest.raises(DataError, match=r"data\.path: 'nowhere' is not a folder"):
        load_splits(DataConfig(name="parquet", path="nowhere"))


def test_an_unknown_data_set_gets_a_suggestion():
    with pytest.raises(DataError, match=r'data\.name: \'digit\' is unknown \(did you mean "digits"\?'):
        load_splits(DataConfig(name="digit"))


def test_class_names_come_from_the_metadata_and_bound_the_labels(parquet):
    folder, _images, _ = parquet
    table = pq.read_table(folder / "train.parquet")
    info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, folder / "train.parquet")
    load_splits.cache_clear()
    assert load(folder).class_names == ("cat", "dog")


def factory(config: DataConfig) -> RawData:
    """A data set of the user's own."""
    images = np.zeros((20, 4, 4, 1), np.uint8)
    return RawData.build(images, np.arange(20) % 4, images[:4], np.arange(4))


def test_own_data_is_named_by_module_and_factory():
    splits = load_splits(DataConfig(name=f"{__name__}:factory", val_images=4))
    assert (splits.num_classes, splits.in_channels, len(splits.train), len(splits.val)) == (4, 1, 16, 4)
    with pytest.raises(DataError, match="no callable 'absent'"):
        load_splits(DataConfig(name=f"{__name__}:absent"))
    with pytest.raises(DataError, match="cannot import 'no_such_module'"):
        load_splits(DataConfig(name="no_such_module:factory"))


def test_digits_have_a_fixed_stratified_test_split():
    one = load_splits(DataConfig(val_share=0.25))
    two = load_splits(DataConfig(val_share=0.25, split_seed=5))
    assert (len(one.train), len(one.val), len(one.test)) == (1010, 337, 450)
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.val.rows, two.val.rows)
    assert set(one.train.rows.tolist()).isdisjoint(one.val.rows.tolist())
    # 450 of 1797: every class within one image of its share.
    share = (
        one.test.labels.bincount() / torch.cat([s.labels for s in (one.train, one.val, one.test)]).bincount()
    )
    assert share.min() > 0.244
    assert share.max() < 0.257


def test_a_training_subset_leaves_validation_as_it_is():
    whole = load_splits(DataConfig(val_images=200))
    part = load_splits(DataConfig(val_images=200, train_images=300))
    assert torch.equal(whole.val.rows, part.val.rows)
    assert len(part.train) == 300
    assert set(part.train.rows.tolist()) <= set(whole.train.rows.tolist())


def test_more_images_than_there_are_is_refused():
    with pytest.raises(
        DataError, match=r"data\.train_images: 5000 training images were requested, only 1147 are left"
    ):
        load_splits(DataConfig(val_images=200, train_images=5000))
    with pytest.raises(DataError, match="1347 of 1347 images cannot be held out"):
        load_splits(DataConfig(val_images=1347))


@pytest.mark.parametrize("number", [0, 1, 7, 50, 99, 100])
def test_a_stratified_choice_has_the_exact_number_and_the_classes_in_proportion(number):
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified_choice(labels, number, torch.Generator().manual_seed(0))
    assert len(chosen.unique()) == number
    counts = labels[chosen].bincount(minlength=3)
    for c, share in enumerate((0.6, 0.3, 0.1)):
        assert abs(counts[c] - share * number) < 1


def test_a_balanced_choice_gives_small_classes_what_they_have():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 3)
    chosen = balanced_choice(labels, 30, torch.Generator().manual_seed(0))
    assert labels[chosen].bincount().tolist() == [10, 10, 3]


@pytest.mark.parametrize("flip", [False, True])
def test_the_batched_gather_equals_the_loop_over_images(flip):
    images = torch.randint(
        0, 256, (9, 7, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    fast = apply_crops(images, draw_crops(9, 2, flip, torch.Generator().manual_seed(2)))
    slow = crop_flip_by_loop(images, 2, flip, torch.Generator().manual_seed(2))
    assert torch.equal(fast, slow)


def test_normalised_images_have_zero_mean_and_unit_deviation_and_channels_last_strides(parquet):
    splits = load(parquet[0])
    x = splits.normalise(torch.from_numpy(np.ascontiguousarray(parquet[1][:40])))
    assert x.shape == (40, 3, 6, 5)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    assert (x.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-4


def test_channel_statistics_equal_the_plain_definition():
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 5, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=1e-6)


def batches(splits, **options):
    defaults = {"batch_size": 64, "augment": "crop", "padding": 1, "seed": 0, "epoch": 1}
    return list(training_batches(splits.train, splits.normalise, **(defaults | options)))


def test_an_epoch_sees_every_image_once_and_depends_on_seed_and_epoch_alone():
    splits = load_splits(DataConfig(val_share=0.25))
    plain = batches(splits, augment="none")
    assert sum(len(y) for _, y in plain) == 1010
    seen = torch.cat([x for x, _ in plain]).flatten(1).sort(0).values
    all_images = splits.normalise(splits.train.images).flatten(1).sort(0).values
    assert torch.equal(seen, all_images)
    again, other_epoch, other_seed = batches(splits), batches(splits, epoch=2), batches(splits, seed=1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches(splits), again))
    assert not torch.equal(again[0][0], other_epoch[0][0])
    assert not torch.equal(again[0][0], other_seed[0][0])


@pytest.mark.parametrize(("processes", "last"), [(2, [25, 25]), (3, [17, 17, 16])])
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_the_parts_of_several_processes_are_the_batches_of_one(processes, last, augment):
    """1010 images in batches of 192: the last one has 50."""
    splits = load_splits(DataConfig(val_share=0.25))
    options = {"batch_size": 192, "augment": augment}
    parts = [batches(splits, part=(rank, processes), **options) for rank in range(processes)]
    assert [len(part[-1][1]) for part in parts] == last
    whole = batches(splits, **options)
    assert len(whole) == 6
    for together, (x, y) in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part[0] for part in together]), x)
        assert torch.equal(torch.cat([part[1] for part in together]), y)


def test_a_last_batch_with_one_image_for_a_process_is_left_out():
    splits = load_splits(DataConfig(val_images=200, train_images=128 + 5))
    assert [num_steps(splits.train, 64, processes) for processes in (1, 2, 3)] == [3, 3, 2]
    assert [len(y) for _, y in batches(splits, part=(1, 2))] == [32, 32, 2]


def test_a_last_batch_of_one_image_is_left_out():
    splits = load_splits(DataConfig(val_images=200, train_images=129))
    assert num_steps(splits.train, 64) == 2
    assert [len(y) for _, y in batches(splits)] == [64, 64]
    assert sum(len(y) for _, y in evaluation_batches(splits.train, splits.normalise, 64)) == 129


@pytest.mark.parametrize(("wanted", "each"), [("auto", 10), (200, 20), (5000, 101)])
def test_the_scoring_sample_is_balanced_fixed_and_at_least_ten_a_class(wanted, each):
    """Of 1010 images; a class that has fewer than its share gives what it has."""
    splits = load_splits(DataConfig(val_share=0.25))
    sample = scoring_sample(splits.train, wanted, 10, seed=3)
    assert sample.labels.bincount().tolist() == [
        min(each, n) for n in splits.train.labels.bincount().tolist()
    ]
    assert torch.equal(sample.rows, scoring_sample(splits.train, wanted, 10, seed=3).rows)


@pytest.fixture
def image_folder(tmp_path, monkeypatch):
    """Two classes, six training and two test images of differing sizes; grey left half, white right half."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    root = tmp_path / "set"
    for split, number in (("train", 6), ("val", 2)):
        for i in range(number):
            pixels = np.full((8 + i, 12, 3), 100, np.uint8)
            pixels[:, 6:] = 255
            path = root / split / ("dog" if i % 2 else "cat") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels))
    return root


def test_an_image_folder_is_resized_and_its_centre_cut_out(image_folder):
    splits = load_splits(DataConfig("imagefolder", path=str(image_folder), image_size=4, val_images=2))
    assert splits.class_names == ("cat", "dog")
    assert splits.image_size == (4, 4)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4, 2, 2)
    # The shorter side (8 and 9 rows) becomes 4, the cut keeps the grey-white edge in the middle.
    assert splits.test.images[0, :, 0].float().mean() == 100
    assert splits.test.images[0, :, 3].float().mean() == 255


def broken_png(root):
    (root / "train" / "cat" / "0.png").write_bytes(b"no image")


def no_test_folder(root):
    (root / "val").rename(root / "other")


def new_class(root):
    (root / "val" / "emu").mkdir()


@pytest.mark.parametrize(
    ("harm", "size", "text"),
    [
        (broken_png, 4, "0.png: the image cannot be decoded"),
        (no_test_folder, 4, "there must be a train folder, and a test or val folder"),
        (new_class, 4, "class 'emu' does not occur in train"),
        (lambda root: None, None, "the image is (10, 12), the first one (8, 12) (set data.image_size)"),
    ],
)
def test_a_damaged_image_folder_is_refused(image_folder, harm, size, text):
    harm(image_folder)
    with pytest.raises(DataError) as caught:
        load_splits(DataConfig("imagefolder", path=str(image_folder), image_size=size, val_images=2))
    assert text in str(caught.value)


def test_cifar_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"cifar10 cannot be loaded.*data\.download=true fetches it"):
        load_splits(DataConfig("cifar10", path=str(tmp_path)))
