"""From a name to an allocator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.allocators.base import Allocator, Looking, looks
from gcp_core.allocators.density import activation_density
from gcp_core.allocators.fixed import threshold
from gcp_core.allocators.given import given
from gcp_core.allocators.network import least_used, network_adjustment
from gcp_core.allocators.threshold import compensation_threshold
from gcp_core.allocators.uniform import uniform
from gcp_core.allocators.whole_network import whole_network
from gcp_core.errors import ConfigError
from gcp_core.slots import Registry

ALLOCATORS = Registry(
    slot="allocator",
    where="prune.allocator",
    group="gcp_core.allocators",
    options="prune.allocator_options",
    verbs=("allot", "look"),
    built_in={
        "global": whole_network,
        "uniform": uniform,
        "threshold": threshold,
        "activation_density": activation_density,
        "compensation_threshold": compensation_threshold,
        "given": given,
        "least_used": least_used,
        "network_adjustment": network_adjustment,
    },
)


def allocator_names() -> list[str]:
    """All registered names, sorted; ``package.module:factory`` comes on top."""
    return ALLOCATORS.names()


def build_allocator(name: str, options: Mapping[str, Any] | None = None) -> Allocator:
    """The allocator of that name.

    Raises:
        ConfigError: unknown name or option, or a value that the allocator refuses.
    """
    allocator: Allocator = ALLOCATORS.build(name, options)
    if looks(allocator) and not isinstance(allocator, Looking):
        raise ConfigError(f"{name} needs data, but does not look", ALLOCATORS.where, "it has look(...)")
    return allocator
