"""The 1,797 8x8 digits bundled with scikit-learn: real data that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from gcp_core.config import DataConfig
from gcp_core.data.images import RawData
from gcp_core.data.split import stratified_choice
from gcp_core.errors import DataError

NUM_TEST = 450
#: Pixels run 0..16; this maps them to 0..240.
SCALE = 15


def load_digits(config: DataConfig) -> RawData:
    """1,347 training and 450 test images ``(8, 8, 1)``; the stratified test split never changes."""
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError as exc:
        raise DataError(
            "the digits come with scikit-learn", "data.name", "pip install 'gcp-sweep[data]'"
        ) from exc
    source = bundled()
    images = (source.images * SCALE).astype(np.uint8)[..., None]
    labels = source.target.astype(np.int64)
    test = stratified_choice(torch.from_numpy(labels), NUM_TEST, torch.Generator().manual_seed(0)).numpy()
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[test] = True
    names = tuple(str(d) for d in range(10))
    return RawData.build(
        images[~is_test], labels[~is_test], images[is_test], labels[is_test], names, where="data.name=digits"
    )
