"""VGG with batch norm for small images. Convs have no bias (batch norm follows each of them)."""

from __future__ import annotations

from torch import Tensor, nn

#: Channels per conv, "M" = 2x2 max pool.
LAYOUTS: dict[str, tuple[int | str, ...]] = {
    "vgg_tiny": (32, 32, "M", 64, 64, "M", 128, 128),
    "vgg11_bn": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13_bn": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16_bn": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    "vgg19_bn": (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
        *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
    ),
}


class VGG(nn.Module):
    """``features`` (conv, BN, ReLU, pool), then ``classifier``.

    ``vgg_tiny`` pools globally and ends in one linear layer. The others follow the CIFAR form of the paper:
    32 x 32 images are reduced to 1 x 1, then Linear -> ReLU -> Dropout(0.5) -> Linear.

    Args:
        layout: channels per conv in forward order, "M" for a pool.
        hidden: whether a hidden linear layer (as wide as the last conv) stands before the output.
    """

    def __init__(
        self, layout: tuple[int | str, ...], num_classes: int, in_channels: int, width: float, hidden: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for item in layout:
            if item == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            out = scaled(int(item), width)
            layers += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            channels = out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        if hidden:
            self.classifier = nn.Sequential(
                nn.Linear(channels, channels),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(channels, num_classes),
            )
        else:
            self.classifier = nn.Sequential(nn.Linear(channels, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1."""
    return max(1, round(channels * width))


def initialise(model: nn.Module) -> None:
    """He initialisation of convs (fan out), batch norm at identity; linear layers keep torch's default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def build_vgg(name: str, num_classes: int, in_channels: int, width: float) -> VGG:
    """One of :data:`LAYOUTS`."""
    return VGG(LAYOUTS[name], num_classes, in_channels, width, hidden=name != "vgg_tiny")
