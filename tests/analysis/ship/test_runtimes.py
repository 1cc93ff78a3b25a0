"""What the quantiser is shown."""

import torch

from analysis.ship.runtimes import CALIBRATION_IMAGES, calibration
from gcp_core.data import Images, Normalise, Splits


def sorted_by_class(a_class: int, classes: int) -> Splits:
    """Images of one pixel, class by class as a folder has them; the pixel is the class."""
    labels = torch.arange(classes).repeat_interleave(a_class)
    pixels = labels.to(torch.uint8)[:, None, None, None]
    rows = torch.arange(len(labels))
    held_out = rows[::4]
    train = Images(pixels, labels, rows[rows % 4 != 0])
    val = Images(pixels, labels, held_out)
    return Splits(train, val, val, classes, Normalise((0.0,), (1 / 255,)), digest="")


def test_the_quantiser_sees_training_images_of_every_class_in_proportion():
    batches = calibration(sorted_by_class(a_class=400, classes=8))
    seen = torch.cat(batches).flatten().round().long()
    # 256 of the 300 that each of 8 classes has: 32 each.
    assert len(seen) == CALIBRATION_IMAGES
    assert seen.bincount().tolist() == [32] * 8
    again = torch.cat(calibration(sorted_by_class(a_class=400, classes=8))).flatten().round().long()
    assert torch.equal(seen, again)


def test_fewer_training_images_than_the_quantiser_wants_are_all_shown():
    (batch,) = calibration(sorted_by_class(a_class=8, classes=3))
    assert batch.shape == (18, 1, 1, 1)
