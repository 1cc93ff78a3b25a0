"""From a name to a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.config import NO_PENALTY
from gcp_core.penalties.base import Penalty
from gcp_core.penalties.consensus import consensus
from gcp_core.penalties.none import none
from gcp_core.penalties.norms import scale_and_shift
from gcp_core.slots import Registry

PENALTIES = Registry(
    slot="penalty",
    where="train.penalty",
    group="gcp_core.penalties",
    options="train.penalty_options",
    verbs=("term",),
    built_in={NO_PENALTY: none, "scale_and_shift": scale_and_shift, "consensus": consensus},
)


def penalty_names() -> list[str]:
    """All registered names, sorted; ``package.module:factory`` comes on top."""
    return PENALTIES.names()


def build_penalty(name: str, options: Mapping[str, Any] | None = None) -> Penalty:
    """The penalty of that name, as it is before the first step.

    Raises:
        ConfigError: unknown name or option, or a value that the penalty refuses.
    """
    penalty: Penalty = PENALTIES.build(name, options)
    return penalty
