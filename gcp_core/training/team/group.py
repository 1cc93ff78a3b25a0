"""How the processes of a trial find each other, and part again."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

#: Seconds that a process waits in one operation for the others before it gives up.
PATIENCE_S = 600.0


def check_possible(device_type: str) -> None:
    """Raise ConfigError unless this torch can train with several processes on such devices."""
    where, alone = "train.processes", "train.processes: 1, or resources.gpus: 1"
    if not dist.is_available():
        raise ConfigError("this torch is built without torch.distributed", where, alone)
    if device_type == "cuda" and not dist.is_nccl_available():
        raise ConfigError("several GPUs need NCCL, which this torch is built without", where, alone)
    if device_type == "cpu" and not dist.is_gloo_available():
        raise ConfigError("several processes need gloo, which this torch is built without", where, alone)
    if dist.is_initialized():
        raise ConfigError(
            "torch.distributed is in use in this process already",
            where,
            "start it plainly, without torchrun: a trial starts its other processes itself",
        )


def open_store(host: str, processes: int) -> tuple[TCPStore, int]:
    """What the first process offers for the others to find it, and its port."""
    store = _store(host, 0, processes, master=True)
    return store, store.port


def join(rank: int, processes: int, device: torch.device, store: Store) -> None:
    """Form the group; returns when all are there, or raises after :data:`PATIENCE_S`."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=processes,
        timeout=_patience(),
        device_id=device if on_gpu else None,
    )


def find(host: str, port: int, processes: int) -> TCPStore:
    """What the first process offers, as another one sees it."""
    return _store(host, port, processes, master=False)


def leave() -> None:
    """Part; nothing happens where no group is."""
    if dist.is_initialized():
        dist.destroy_process_group()


def abort() -> None:
    """Part although others may be in the middle of something: whoever waits on a GPU for one that is lost goes on."""
    world = dist.group.WORLD
    if world is not None and dist.get_backend() == "nccl":
        world.abort()


def _store(host: str, port: int, processes: int, *, master: bool) -> TCPStore:
    make: type[TCPStore] = getattr(dist, "TCPStore")  # noqa: B009 - torch tells type checkers nothing of it
    return make(host, port, processes, is_master=master, timeout=_patience(), wait_for_workers=False)


def _patience() -> datetime.timedelta:
    return datetime.timedelta(seconds=PATIENCE_S)
