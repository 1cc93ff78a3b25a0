"""From a name to a repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.config import NO_REPAIR
from gcp_core.repairs.base import Repair
from gcp_core.repairs.least_squares import least_squares
from gcp_core.repairs.none import none
from gcp_core.slots import Registry

REPAIRS = Registry(
    slot="repair",
    where="prune.repair",
    group="gcp_core.repairs",
    options="prune.repair_options",
    verbs=("patch",),
    built_in={NO_REPAIR: none, "least_squares": least_squares},
)


def repair_names() -> list[str]:
    """All registered names, sorted; ``package.module:factory`` comes on top."""
    return REPAIRS.names()


def build_repair(name: str, options: Mapping[str, Any] | None = None) -> Repair:
    """The repair of that name.

    Raises:
        ConfigError: unknown name or option, or a value that the repair refuses.
    """
    repair: Repair = REPAIRS.build(name, options)
    return repair
