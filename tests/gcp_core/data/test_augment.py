"""What is done to training images on their way into a batch."""

import pytest
import torch

from gcp_core.data.images import Images, Normalise
from gcp_core.data.pipeline import training_batches


@pytest.mark.parametrize(("augment", "mirrored"), [("none", False), ("crop", False), ("crop_flip", True)])
def test_without_padding_nothing_is_cropped_and_what_is_to_be_mirrored_still_is(augment, mirrored):
    # Image i has i on its left and 255 on its right.
    pixels = torch.stack([torch.arange(40), torch.full((40,), 255)], dim=1).to(torch.uint8)
    images = Images(pixels.reshape(40, 1, 2, 1), torch.arange(40), torch.arange(40))
    ((made, labels),) = training_batches(
        images, Normalise((0.0,), (1 / 255,)), batch_size=40, augment=augment, padding=0, seed=0, epoch=1
    )
    seen, as_they_are = made.reshape(40, 2), pixels[labels].float()
    turned = (seen == as_they_are.flip(1)).all(1)
    assert ((seen == as_they_are).all(1) | turned).all()
    # Each by a coin: of 40 none or all would be a chance of 2 in 10^12.
    assert bool(turned.any()) == mirrored
    assert not turned.all()
