"""How many processes train a trial together: one for each of its GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gcp_core.errors import ConfigError
from sweeps.config.space import Dimension

_KEY = "train.processes"


class Resources(Protocol):
    """What of ``resources`` decides."""

    @property
    def gpus(self) -> float: ...

    @property
    def spread(self) -> bool: ...


def with_processes(
    train: Mapping[str, Any], resources: Resources, given: Any, dimensions: Sequence[Dimension]
) -> dict[str, Any]:
    """The section ``train`` with its number of processes: that of the GPUs, where there are several.

    It decides about weights, so it is part of the trials' config, and not only of what they run on.

    Args:
        given: what the user wrote there; None = nothing.

    Raises:
        ConfigError: they cannot be, or not with these GPUs.
    """
    gpus = resources.gpus
    if any(dimension.path == _KEY for dimension in dimensions):
        raise ConfigError("is not searched: what a trial runs on does not vary", _KEY, "one number")
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            f"{gpus:g} GPUs per trial", "resources.gpus", "a whole number, or a share of one below 1"
        )
    if not gpus and str(train["device"]).startswith("cuda"):
        raise ConfigError(
            f"{train['device']!r}, but a trial has no GPU",
            "train.device",
            "resources.gpus: 1, or a part of one such as 0.25",
        )
    number = int(gpus) if gpus > 1 else train["processes"]
    if given not in (None, 1, number):
        raise ConfigError(
            f"{given} processes, but {number} GPUs per trial",
            _KEY,
            "leave it out: each GPU has a process of its own",
        )
    if 0 < gpus <= 1 < number:
        raise ConfigError(
            f"{number} processes need a GPU each, but there is {gpus:g} per trial",
            _KEY,
            f"resources.gpus: {number}",
        )
    if resources.spread and number == 1:
        hint = "resources.gpus: 2 or more, or train.processes"
        raise ConfigError("a trial of one process is on one node", "resources.spread", hint)
    return {**train, "processes": number}
