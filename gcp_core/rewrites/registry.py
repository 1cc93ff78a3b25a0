"""From a name to a rewrite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.config import NO_REWRITE
from gcp_core.rewrites.base import Rewrite
from gcp_core.rewrites.consensus import consensus_gates
from gcp_core.rewrites.none import none
from gcp_core.rewrites.whitened import batch_whitening
from gcp_core.slots import Registry

REWRITES = Registry(
    slot="rewrite",
    where="train.rewrite",
    group="gcp_core.rewrites",
    options="train.rewrite_options",
    verbs=("install",),
    built_in={NO_REWRITE: none, "batch_whitening": batch_whitening, "consensus_gates": consensus_gates},
)


def rewrite_names() -> list[str]:
    """All registered names, sorted; ``package.module:factory`` comes on top."""
    return REWRITES.names()


def build_rewrite(name: str, options: Mapping[str, Any] | None = None) -> Rewrite:
    """The rewrite of that name.

    Raises:
        ConfigError: unknown name or option, or a value that the rewrite refuses.
    """
    rewrite: Rewrite = REWRITES.build(name, options)
    return rewrite
