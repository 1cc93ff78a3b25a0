"""Arrays of the user's own, as other tools hand them out."""

import dataclasses
import json

import numpy as np
import pytest

from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from gcp_core.data import RawData, load_splits
from gcp_core.errors import DataError
from gcp_core.records.stages import StageStore
from gcp_core.training import run_trial

LABELS = np.arange(20) % 4
#: Every pixel of image n has the values n, n + 100 and n + 200.
IMAGES = np.add.outer(np.arange(20, dtype=np.uint8), np.full((4, 4, 3), [0, 100, 200], np.uint8))


def mirrored(config: DataConfig) -> RawData:
    """Blue first, turned into red first without a copy."""
    return RawData.build(IMAGES[..., ::-1], LABELS[::-1], IMAGES[:4, ..., ::-1], LABELS[:4])


def test_arrays_that_run_backwards_are_taken():
    splits = load_splits(DataConfig(f"{__name__}:mirrored", val_images=4))
    assert splits.test.images[3, 0, 0].tolist() == [203, 103, 3]
    assert splits.train.all_labels.tolist() == LABELS[::-1].tolist()


def test_labels_in_a_column_are_refused_with_their_shape():
    with pytest.raises(DataError, match=r"data \(train\): labels are \w+ \(20, 1\) \(\(N,\) is needed"):
        RawData.build(IMAGES, LABELS[:, None], IMAGES[:4], LABELS[:4])
    with pytest.raises(DataError, match=r"data \(test\): labels are \w+ \(4, 1\)"):
        RawData.build(IMAGES, LABELS, IMAGES[:4], LABELS[:4, None])


#: What :func:`changed` changes of a data set by hand.
CHANGES: dict[str, object] = {}


def changed(config: DataConfig) -> RawData:
    return dataclasses.replace(RawData.build(IMAGES, LABELS, IMAGES[:4], LABELS[:4]), **CHANGES)


def splits_with(monkeypatch, **changes):
    """As another process would load them that has other code."""
    monkeypatch.setattr(f"{__name__}.CHANGES", changes)
    load_splits.cache_clear()
    return load_splits(DataConfig(f"{__name__}:changed", val_images=4))


def test_data_that_make_other_batches_have_another_key(monkeypatch):
    built = splits_with(monkeypatch)
    others = [
        splits_with(monkeypatch, mean=(0.485, 0.456, 0.406)),
        splits_with(monkeypatch, std=(0.229, 0.224, 0.225)),
        splits_with(monkeypatch, train_labels=LABELS[::-1]),
        splits_with(monkeypatch, test_images=IMAGES[4:8]),
    ]
    assert len({splits.key for splits in [built, *others]}) == 5
    assert splits_with(monkeypatch, digest="whatever it is called").key == built.key


def test_a_record_of_data_that_were_normalised_otherwise_is_not_of_these(monkeypatch):
    built = splits_with(monkeypatch)
    record = {"data_digest": built.digest, "mean": list(built.mean), "std": list(built.std)}
    assert built.unlike(record) == built.unlike({"data_digest": built.digest}) == ""
    other = splits_with(monkeypatch, std=(0.229, 0.224, 0.225))
    assert other.unlike(record).startswith("the images are now normalised with std [0.229, 0.224, 0.225]")


@pytest.mark.parametrize("std", [(0.2,), (0.2, 0.0, 0.2), (0.2, float("nan"), 0.2), 0.2, None])
def test_statistics_that_do_not_fit_the_images_are_refused(monkeypatch, std):
    with pytest.raises(DataError, match=r"std .* do not fit the images .*3 finite numbers each"):
        splits_with(monkeypatch, std=std)


def test_statistics_of_numpy_are_plain_numbers(monkeypatch):
    """They go into manifests, and the key must not depend on how they are written."""
    mean = np.array([0.5, 0.25, 0.75], dtype=np.float32)
    splits = splits_with(monkeypatch, mean=mean)
    assert splits.mean == (0.5, 0.25, 0.75)
    assert splits.key == splits_with(monkeypatch, mean=(0.5, 0.25, 0.75)).key
    assert json.dumps(list(splits.mean)) == "[0.5, 0.25, 0.75]"


def test_data_that_are_normalised_otherwise_share_no_training(monkeypatch, tmp_path):
    data = DataConfig(f"{__name__}:changed", val_images=4)
    trial = TrialConfig(
        data=data, model=ModelConfig("vgg_tiny", 0.125), train=TrainConfig(epochs=1)
    ).baseline()
    trained = []
    for changes in ({}, {"mean": (0.485, 0.456, 0.406)}, {}):
        splits_with(monkeypatch, **changes)
        trained.append(run_trial(trial, stages=StageStore(tmp_path), latency=False).trained_epochs)
    assert trained == [1, 1, 0]
