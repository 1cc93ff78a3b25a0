"""From a name to a network: what is refused, and with which remedy."""

import pytest

from gcp_core.errors import ModelError
from gcp_core.models import build_model


def test_grey_images_for_a_network_of_torchvision_are_refused_with_the_key_that_makes_them_rgb():
    with pytest.raises(ModelError, match=r"take 3 input channels, not 1") as caught:
        build_model("torchvision:resnet18", 10, in_channels=1)
    assert caught.value.where == "model.name"
    assert "data.channels: 3" in caught.value.hint
