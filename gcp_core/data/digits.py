"""The 1,797 8x8 digits bundled with scikit-learn: real data that needs no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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
    rows = _bundled()
    images = (rows[:, :-1].reshape(-1, 8, 8) * SCALE).astype(np.uint8)[..., None]
    labels = rows[:, -1].astype(np.int64)
    test = stratified_choice(torch.from_numpy(labels), NUM_TEST, torch.Generator().manual_seed(0)).numpy()
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[test] = True
    names = tuple(str(d) for d in range(10))
    return RawData.build(
        images[~is_test], labels[~is_test], images[is_test], labels[is_test], names, where="data.name=digits"
    )


def _bundled() -> np.ndarray:
    """``(1797, 65)`` float64: 64 pixels, label."""
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise DataError("the digits come with scikit-learn", "data.name", "pip install 'gcp-sweep[data]'")
    for folder in found.submodule_search_locations or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():  # read without scikit-learn, whose import costs every worker more than a second
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits as bundled

    source = bundled()
    return np.column_stack([source.data, source.target])
