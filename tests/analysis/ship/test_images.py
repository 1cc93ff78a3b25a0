"""The images that a model was trained on, looked for on another machine."""

import pytest

from analysis.ship.images import images_of
from gcp_core.config import DataConfig
from gcp_core.data import load_splits
from gcp_core.errors import CheckpointError, DataError

DIGITS = DataConfig("digits", val_share=0.25)


def test_images_that_are_not_where_the_trial_found_them_name_the_option_that_says_where_they_are():
    gone = DataConfig("parquet", path="/no/such/folder")
    with pytest.raises(
        DataError, match=r"data\.path: .* is not a folder \(--data-path FOLDER says where"
    ) as caught:
        images_of(gone, {}, "t0003@4")
    assert caught.value.hint.startswith("--data-path")
    with pytest.raises(DataError) as caught:
        images_of(gone, {}, "t0003@4", "/nor/here")
    assert caught.value.hint == "", "the user knows the option"


def test_other_images_are_refused_and_the_same_ones_come_back():
    digest = load_splits(DIGITS).digest
    assert images_of(DIGITS, {"data_digest": digest}, "t0003@4").digest == digest
    with pytest.raises(CheckpointError, match=r"t0003@4: the data now has digest \w+.*\(--data-path FOLDER"):
        images_of(DIGITS, {"data_digest": "0" * 16}, "t0003@4")
