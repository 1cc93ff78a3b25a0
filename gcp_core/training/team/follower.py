"""What the other processes of a trial do: what the first one tells them, in order, until it is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from gcp_core.config import TrialConfig
from gcp_core.errors import Diverged, required
from gcp_core.models.arithmetic import repeatable
from gcp_core.plan import Plan
from gcp_core.slots import load_state
from gcp_core.training.epoch import train_epoch
from gcp_core.training.setup import build_setup
from gcp_core.training.state import State, moved
from gcp_core.training.team import group
from gcp_core.training.team.mark import mark_of, marks_of
from gcp_core.training.team.member import failure_of, from_bytes, to_bytes, unpacked
from gcp_core.training.team.share import Share


class Follower:
    """One process that follows the first one. What it answers is plain values."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._share: Share | None = None
        self._arithmetic = contextlib.ExitStack()

    def do(self, message: bytes) -> tuple[bytes, bool]:
        """Do what a message says: the answer, and whether this process can go on. What is raised is an answer, too.

        Where it cannot, it has to end once the answer is sent: the others may wait for it in the middle of a step.
        """
        try:
            order, about = from_bytes(message)
            return to_bytes(getattr(self, f"_{order}")(**about)), True
        except Exception as exc:
            return to_bytes(failure_of(exc)), False

    @property
    def state(self) -> State:
        return required(self._state, "state")

    def _prepare(self, config: Mapping[str, Any], device: str) -> str:
        """Data and the dense model of the trial, on this process's device; what kind of device that is."""
        given = TrialConfig.from_dict(dict(config))
        torch.set_num_threads(given.threads)
        # Not put into the config: that is one for all processes, and refuses to name the GPU of one of them.
        setup = build_setup(given, device)
        self._arithmetic.close()
        self._arithmetic.enter_context(repeatable(given.train.deterministic, setup.device))
        self._state = State.fresh(setup)
        return self._state.setup.device.type

    def _join(self, rank: int, host: str, port: int, options: Mapping[str, bool]) -> None:
        setup = self.state.setup
        processes = setup.config.train.processes
        group.join(rank, processes, setup.device, group.find(host, port, processes))
        self._share = Share(rank, processes, **options)

    def _take(self, plans: Sequence[str], tensors: bytes, rewritten: bool) -> str:
        """Be where the first process is, from the dense model on."""
        state = self._state = State.fresh(self.state.setup, rewritten=rewritten)
        self._cut(plans)
        state.load(unpacked(tensors), "another process")
        return mark_of(state)

    def _cut(self, plans: Sequence[str]) -> str:
        for plan in plans:
            self.state.cut(Plan.from_json(plan))
        return mark_of(self.state)

    def _train(self, epoch: int, rates: Sequence[float], begin: int, penalty: bytes) -> str:
        """Train this process's part of an epoch; see :meth:`gcp_core.training.team.team.Team.train`."""
        state, share = self.state, required(self._share, "share")
        if state.penalty is not None:
            load_state(state.penalty, moved(unpacked(penalty), state.setup.device))
        images, batch_size = len(state.setup.train_images), state.setup.config.train.batch_size
        with (
            contextlib.suppress(Diverged),  # the first one says so
            state.setup.surroundings(),
            share.training(state.model, images, batch_size),
        ):
            train_epoch(
                state.model,
                state.optimizer,
                state.setup,
                epoch,
                lambda step: rates[step - begin],
                state.penalty,
                state.steps,
                share,
            )
        return mark_of(state)

    def _marks(self) -> dict[str, str]:
        return marks_of(self.state)

    def _leave(self) -> None:
        group.leave()


def main(connection: int, life: int) -> None:
    """Follow the process at the other end of two inherited file descriptors: messages, and one that only tells when
    that process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first one's matter; it ends this one
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    logging.getLogger().setLevel(logging.ERROR)  # the first one says the same
    follower, pipe = Follower(), Connection(connection)
    with contextlib.suppress(EOFError, OSError):
        while True:
            answer, goes_on = follower.do(pipe.recv_bytes())
            pipe.send_bytes(answer)
            if not goes_on:
                break
    os._exit(0)


def _end_with(life: int) -> None:
    """Wherever this process is, in the middle of a step or waiting for one that is gone: it ends now."""
    os.read(life, 1)
    os._exit(1)
