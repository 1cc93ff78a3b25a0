"""Arrays of the user's own, as other tools hand them out."""

import numpy as np
import pytest

from gcp_core.config import DataConfig
from gcp_core.data import RawData, load_splits
from gcp_core.errors import DataError

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
