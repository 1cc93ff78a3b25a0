"""GPU memory between trials: freed after one trial, and waited for before the next. And what a process that runs no
trial does in a trial's place: as with the trial's GPUs, whatever it sees itself.

A process that was killed keeps its memory for a moment, and so does a trial that ran in this process before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError

_log = logging.getLogger(__name__)
WAIT_S = 60.0
_POLL_S = 1.0
#: Of a trial's share of a GPU this much must be free; contexts of other processes and of the display take the rest.
_ENOUGH = 0.8
#: Of its share a process may fill this much with tensors; its own context takes the rest.
_OF_SHARE = 0.95
#: What is said where a kernel on the GPU has met an index out of range, for instance.
_ASSERTION = "device-side assert"


def asserted(error: str) -> bool:
    """Whether a trial ended by an assertion on its GPU: its own fault, which every attempt would repeat. Its process can
    use that GPU for nothing more, not even to give its memory back.
    """
    return _ASSERTION in error


def with_advice(error: str) -> str:
    """An error with what to try, if it is of that kind; every other one as it is."""
    if not asserted(error):
        return error
    return (
        "an assertion failed on the GPU, most often because a label or an index is out of range; `gcp-sweep trial` with"
        f" train.device=cpu says which: {error}"
    )


def wait_for_memory(
    gpus: float,
    memory: Callable[[], tuple[int, int]] | None = None,
    wait_s: float = WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a trial's share of its GPU is free; return whether it is. Without a GPU there is nothing to wait for.

    Args:
        gpus: how many GPUs the trial was given; below 1 it shares one with others.
        memory: (free, total) bytes of the GPU in use.
        wait_s: after this many seconds the trial starts all the same, with a warning.
    """
    if gpus <= 0:
        return True
    memory = memory or _memory
    share = min(1.0, gpus) * _ENOUGH
    free = total = 0
    for waited in range(int(wait_s / _POLL_S) + 1):
        free, total = memory()
        if free >= share * total:
            return True
        if waited == 0:
            _log.info("%.1f of %.1f GB of the GPU are free, waiting for more", free / 1e9, total / 1e9)
        sleep(_POLL_S)
    _log.warning("after %.0f s only %.1f of %.1f GB of the GPU are free", wait_s, free / 1e9, total / 1e9)
    return False


def keep_to_share(gpus: float) -> None:
    """Bound what this process takes of its GPU: a trial that asks for more fails alone, and its neighbours go on.

    Args:
        gpus: how many GPUs the trial was given; from 1 on they are its own.
    """
    if gpus <= 0:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0 if gpus >= 1 else gpus * _OF_SHARE)


@contextlib.contextmanager
def in_place_of_trials(gpus: float) -> Iterator[None]:
    """Inside, this process trains on what trials with so many GPUs train on: without any, on its CPU."""
    from gcp_core.models.devices import on_cpu  # brings torch

    with on_cpu(not gpus):
        yield


def more_than_trials(device: str, gpus: float) -> str:
    """A sentence if a trial by itself, with that ``train.device``, takes a GPU that a sweep's trials would not see; else
    empty.
    """
    from gcp_core.models.devices import has_gpu  # brings torch

    if gpus or device != "auto" or not has_gpu():
        return ""
    return (
        "this trial takes a GPU; in a sweep with resources.gpus 0 it would have none, and other weights (train.device=cpu"
        " does as there, resources.gpus=1 says that the GPU is wanted)"
    )


def to_look_at(trial: TrialConfig, gpus: float) -> TrialConfig:
    """The trial as this process can build it: on its CPU, in float32, where the trial will have a GPU and none is seen
    here. Shapes and costs are the same.

    Args:
        gpus: how many GPUs the trial will be given.
    """
    from gcp_core.models.devices import has_gpu  # brings torch

    if not gpus or has_gpu():
        return trial
    return dataclasses.replace(trial, train=dataclasses.replace(trial.train, device="cpu", precision="fp32"))


def check_for(gpus: float) -> Callable[[TrialConfig], None]:
    """:func:`gcp_core.training.setup.check_config`, for trials that will be given so many GPUs."""

    def check(trial: TrialConfig) -> None:
        import torch

        from gcp_core.training.setup import check_config

        _check_number(trial.train.device, gpus)
        try:
            with in_place_of_trials(gpus):
                check_config(to_look_at(trial, gpus))
        except torch.OutOfMemoryError as exc:
            hint = "which processes are on this machine's GPU (nvidia-smi)?"
            raise ConfigError(f"there is no room to look at a trial: {exc}", "resources.gpus", hint) from exc

    return check


def _check_number(device: str, gpus: float) -> None:
    """A trial sees the GPUs that it is given, numbered from 0, and no other of its node."""
    kind, _, number = device.partition(":")
    given = math.ceil(gpus)
    if kind == "cuda" and number.isdecimal() and 0 < given <= int(number):
        raise ConfigError(
            f"{device!r}: a trial sees only what it is given, cuda:0{f' .. cuda:{given - 1}' * (given > 1)}",
            "train.device",
            "auto; Ray chooses the GPU of each trial",
        )


def free_memory(gpus: float) -> None:
    """Give back what a trial of this process has left behind."""
    if gpus <= 0:
        return
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _memory() -> tuple[int, int]:
    import torch

    # A node that offers GPUs where torch sees none runs on its CPU; the preflight's versions tell why.
    return torch.cuda.mem_get_info() if torch.cuda.is_available() else (1, 1)
