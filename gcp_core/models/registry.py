"""From a name to a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from gcp_core.errors import ModelError, did_you_mean
from gcp_core.factory import call_factory, is_factory_name, load_factory
from gcp_core.models.resnet import BASIC_BLOCKS, BOTTLENECK_BLOCKS, build_resnet
from gcp_core.models.vgg import LAYOUTS, build_vgg

TORCHVISION = "torchvision:"


def model_names() -> list[str]:
    """The names of our own networks, sorted. ``torchvision:NAME`` and ``package.module:factory`` work too."""
    return sorted([*LAYOUTS, *BASIC_BLOCKS, *BOTTLENECK_BLOCKS])


def build_model(name: str, num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """A freshly initialised network (torch's global generator is used; seed it for reproducible weights).

    Args:
        name: one of :func:`model_names`, ``torchvision:NAME``, or ``package.module:factory``. A factory is called
            with those of ``num_classes``, ``in_channels`` and ``width`` that it takes.
        width: multiplies every channel count (our own networks and factories that take it).

    Raises:
        ModelError: the name is unknown, or the factory raises or does not return an ``nn.Module``.

    >>> sum(p.numel() for p in build_model("resnet20", 10).parameters())
    272474
    """
    if name in LAYOUTS:
        return build_vgg(name, num_classes, in_channels, width)
    if name in BASIC_BLOCKS or name in BOTTLENECK_BLOCKS:
        return build_resnet(name, num_classes, in_channels, width)
    if name.startswith(TORCHVISION):
        return _torchvision(name[len(TORCHVISION) :], num_classes, in_channels, width)
    if is_factory_name(name):
        factory = load_factory(name, "model.name", ModelError)
        given = _accepted(factory, num_classes=num_classes, in_channels=in_channels, width=width)
        model = call_factory(factory, name, "model.name", ModelError, **given)
        if not isinstance(model, nn.Module):
            raise ModelError(f"{name} returned a {type(model).__name__}, not an nn.Module", "model.name")
        return model
    hint = did_you_mean(name, model_names())
    raise ModelError(
        f"{name!r} is unknown", "model.name", f"{hint}; or torchvision:NAME, or package.module:factory"
    )


def _accepted(factory: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of ``arguments`` that the factory's signature takes."""
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return arguments
    return {k: v for k, v in arguments.items() if k in parameters}


def _torchvision(name: str, num_classes: int, in_channels: int, width: float) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(f"torchvision has no classifier {name!r}", "model.name", did_you_mean(name, known))
    if in_channels != 3:
        raise ModelError(
            f"torchvision models take 3 input channels, not {in_channels}",
            "model.name",
            "data.channels: 3 reads grey images of imagefolder and parquet as RGB",
        )
    if width != 1.0:
        raise ModelError("torchvision models have no width", "model.width", "leave it at 1.0")
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
