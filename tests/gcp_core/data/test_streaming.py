"""Sets larger than memory: the same batches as in memory, whatever the workers, in bounded memory."""

import dataclasses
import io
import pickle
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.data import evaluation_batches, load_splits, streaming, training_batches
from gcp_core.data import images as images_module
from gcp_core.data.pipeline import scoring_sample
from gcp_core.data.streaming import RowFile, RowWriter, should_stream
from gcp_core.errors import ConfigError, DataError
from gcp_core.training import run_trial

SIDE = 16


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 + 40 random colour images of 16 x 16 in two classes, as parquet."""
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for name, number in (("train", 120), ("test", 40)):
        pixels = rng.integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)
        column = [{"bytes": png(p), "path": None} for p in pixels]
        pq.write_table(
            pa.table({"img": column, "label": [i % 2 for i in range(number)]}), root / f"{name}.parquet"
        )
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def data(folder, **options) -> DataConfig:
    return DataConfig(name="parquet", path=str(folder), val_share=0.25, **options)


def epoch(splits, number=1, augment="crop_flip", part=(0, 1)):
    options = {"batch_size": 32, "augment": augment, "padding": 2, "seed": 5, "epoch": number, "part": part}
    return list(training_batches(splits.train, splits.normalise, **options))


def equal(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(left, right)
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_batches_are_those_of_a_set_in_memory_for_any_number_of_workers(folder, workers):
    memory = load_splits(data(folder, streaming=False))
    streamed = load_splits(data(folder, streaming=True, workers=workers))
    assert memory.train.source is None
    assert streamed.train.source is not None
    assert equal(epoch(streamed, 2), epoch(memory, 2))
    assert not equal(epoch(streamed, 2), epoch(memory, 3))
    assert equal(epoch(streamed, 2, part=(1, 2)), epoch(memory, 2, part=(1, 2)))
    for split in ("val", "test"):
        part, whole = getattr(streamed, split), getattr(memory, split)
        batches = [list(evaluation_batches(s, memory.normalise, 16)) for s in (part, whole)]
        assert equal(*batches)
    assert streamed.digest == memory.digest


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_other_augmentations_are_streamed_too(folder, augment):
    memory = load_splits(data(folder, streaming=False))
    streamed = load_splits(data(folder, streaming=True, workers=0))
    assert equal(epoch(streamed, augment=augment), epoch(memory, augment=augment))


def test_streaming_leaves_the_global_random_numbers_alone(folder):
    """Dropout draws from them: a loader that did too would change the training."""
    streamed = load_splits(data(folder, streaming=True, workers=1))
    before = torch.get_rng_state()
    epoch(streamed)
    assert torch.equal(torch.get_rng_state(), before)


def test_single_images_and_the_scoring_sample_of_a_streamed_set(folder):
    memory = load_splits(data(folder, streaming=False))
    streamed = load_splits(data(folder, streaming=True, workers=0))
    positions = torch.tensor([7, 3, 3, 60])
    for left, right in zip(streamed.train.take(positions), memory.train.take(positions)):
        assert torch.equal(left, right)
    samples = [scoring_sample(s.train, 20, 2, seed=1) for s in (streamed, memory)]
    assert samples[0].source is not None
    assert torch.equal(samples[0].take(torch.arange(20))[0], samples[1].images)


def trial(folder, **options) -> TrialConfig:
    return TrialConfig(
        data=data(folder, **options),
        model=ModelConfig("vgg_tiny", 0.125),
        train=TrainConfig(epochs=3, batch_size=32),
        prune=PruneConfig(criterion="l1", interval=1, ratio=0.2, target=0.3, until=1.0),
    )


class Killed(Exception):
    """Stands for a power cut."""


def test_a_streamed_trial_has_the_weights_of_one_in_memory_also_after_a_resume(folder, tmp_path):
    memory = run_trial(trial(folder, streaming=False))

    def kill(report):
        if report.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run_trial(trial(folder, streaming=True, workers=1), report=kill, checkpoint_dir=tmp_path)
    resumed = run_trial(trial(folder, streaming=True, workers=1), checkpoint_dir=tmp_path)
    assert resumed.plans
    assert resumed.weights_sha256 == memory.weights_sha256
    assert resumed.finals["test_accuracy"] == memory.finals["test_accuracy"]


def test_auto_streams_what_is_larger_than_the_given_or_a_share_of_the_memory(monkeypatch):
    monkeypatch.setattr(streaming, "machine_memory", lambda: 4000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto = DataConfig()
    # A quarter of 4000 bytes is 1000.
    assert [should_stream(auto, n) for n in (1000, 1001)] == [False, True]
    one = DataConfig(memory_gib=1.0)
    assert [should_stream(one, n) for n in (2**30, 2**30 + 1)] == [False, True]
    assert should_stream(DataConfig(streaming=True), 1)
    assert not should_stream(DataConfig(streaming=False, memory_gib=0.0), 1)


def test_auto_counts_only_the_part_of_a_gpu_that_the_trial_may_use(monkeypatch):
    monkeypatch.setattr(streaming, "machine_memory", lambda: 10**6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=4000))
    for share, most in ((1.0, 2000), (0.25, 500)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _, share=share: share)
        assert [should_stream(DataConfig(), n) for n in (most, most + 1)] == [False, True]


def test_memory_gib_decides_for_a_real_set(folder):
    assert load_splits(data(folder, memory_gib=0.0)).val.source is not None
    assert load_splits(data(folder, memory_gib=0.001)).val.source is None


def test_a_set_that_only_exists_in_memory_is_not_streamed():
    assert load_splits(DataConfig(name="digits", streaming=True)).train.source is None


def big_folder(root, number: int, side: int) -> None:
    """Flat images compress to nothing: the decoded set is far larger than its files."""
    for split, count in (("train", number), ("test", 4)):
        for i in range(count):
            target = root / split / "ab"[i % 2]
            target.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), (i % 256, 0, 0)).save(target / f"{i:04}.png")


def test_decoding_and_an_epoch_need_memory_for_some_batches_not_for_the_set(tmp_path, monkeypatch):
    """200 images of 96 x 96 x 3 are 5.5 MB decoded; a batch of 4 is 0.11 MB of bytes, 0.44 MB of floats."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(images_module, "CHUNK_BYTES", 100_000)
    big_folder(tmp_path / "set", 200, 96)
    config = DataConfig(name="imagefolder", path=str(tmp_path / "set"), streaming=True, workers=0)
    Image.init()
    tracemalloc.start()
    try:
        splits = load_splits(config)
        options = {"batch_size": 4, "augment": "crop_flip", "padding": 4, "seed": 0, "epoch": 1}
        seen = sum(len(y) for _, y in training_batches(splits.train, splits.normalise, **options))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 180
    assert splits.train.pixels.numel() == 200 * 96 * 96 * 3
    # Images read and decoded are NumPy arrays, which are traced; the file's mapping is not memory of the process.
    assert peak < 2_000_000


def written(path, rows) -> np.ndarray:
    with RowWriter(path, len(rows)) as writer:
        for row in rows:
            writer.append(row)
    return writer.array()


def test_rows_come_back_in_any_order_and_the_file_is_a_plain_npy(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    array = written(tmp_path / "rows.npy", rows)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)
    source = pickle.loads(pickle.dumps(RowFile.behind(array)))
    for wanted in ([0, 1, 2, 3], [8, 0, 0, 5, 6, 4], [3], []):
        index = torch.tensor(wanted, dtype=torch.int64)
        np.testing.assert_array_equal(source.read(index).numpy(), rows[wanted])


def test_only_an_array_that_shows_a_whole_file_can_be_streamed(tmp_path):
    rows = np.zeros((6, 2, 2, 1), dtype=np.uint8)
    array = written(tmp_path / "rows.npy", rows)
    assert RowFile.behind(array).shape == (6, 2, 2, 1)
    assert RowFile.behind(array[2:]) is None
    assert RowFile.behind(rows) is None


def test_a_cut_or_missing_file_is_named(tmp_path):
    path = tmp_path / "rows.npy"
    source = RowFile.behind(written(path, np.zeros((6, 2, 2, 1), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:-1])
    assert source.read(torch.tensor([4])).shape == (1, 2, 2, 1)
    with pytest.raises(DataError, match=r"rows\.npy: the decoded images cannot be read: it ends too early"):
        source.read(torch.tensor([5]))
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.npy: the decoded images cannot be read: .*No such file"):
        source.read(torch.tensor([0]))


def test_too_few_rows_another_shape_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    row = np.zeros((2, 2, 1), dtype=np.uint8)
    with pytest.raises(DataError, match="1 of 3 images were decoded"), RowWriter(tmp_path / "a", 3) as writer:
        writer.append(row)
    other = [row, np.zeros((3, 2, 1), dtype=np.uint8)]
    with pytest.raises(DataError, match=r"\(3, 2, 1\), not uint8 \(2, 2, 1\)"):
        written(tmp_path / "b", other)
    usage = streaming.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(streaming.shutil, "disk_usage", lambda path: usage._replace(free=2**30))
    text = r"need 2\.0 GiB, 1\.0 GiB are free \(set GCP_CACHE_DIR"
    with pytest.raises(DataError, match=text), RowWriter(tmp_path / "c", 2**29) as writer:
        writer.append(row)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"streaming": "yes"}, "data.streaming: 'yes' is unknown (auto, true or false)"),
        ({"memory_gib": -1.0}, "data.memory_gib: -1.0 is not a number in [0.0, inf)"),
        ({"workers": -1}, "data.workers: -1 is not a whole number >= 0"),
    ],
)
def test_streaming_options_that_mean_nothing_are_refused(options, text):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(DataConfig(), **options)
    assert str(error.value) == text
