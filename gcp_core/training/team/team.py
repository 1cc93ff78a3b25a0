"""What the first process of several does: it tells the others, and answers for all of them."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from gcp_core.config import TrialConfig
from gcp_core.data.pipeline import num_steps
from gcp_core.errors import ConfigError, Diverged, GcpError, ModelError, ProcessLost, required
from gcp_core.schedule.clock import learning_pace
from gcp_core.slots import state_of
from gcp_core.training.epoch import train_epoch
from gcp_core.training.setup import Setup
from gcp_core.training.state import State
from gcp_core.training.team import group
from gcp_core.training.team.mark import mark_of, marks_of
from gcp_core.training.team.member import Hearing, Start, Started, packed, to_bytes
from gcp_core.training.team.processes import start_here
from gcp_core.training.team.share import Share, has_unused

log = logging.getLogger(__name__)

#: Seconds for the others to load the data and build the model.
PREPARE_S = 1800.0
#: Seconds in which the others say why, after something has failed here.
_REASON_S = 5.0
#: Seconds for them to end by themselves.
_END_S = 10.0
#: How gloo and NCCL say that another process was waited for in vain.
_TIMED_OUT = re.compile(r"timed? ?out", re.IGNORECASE)


@contextlib.contextmanager
def assembled(config: TrialConfig, start: Start | None) -> Iterator[Team | None]:
    """The other processes of a trial, started and, afterwards, ended; None where it trains alone.

    Args:
        start: starts them; None = on this machine, if the trial has more than one.

    Raises:
        ConfigError: that cannot be done here.
    """
    if start is None and config.train.processes == 1:
        yield None
        return
    team = Team(config, (start or start_here)(config))
    try:
        yield team
    finally:
        team.end()


class Team:
    """All processes of one trial, as its first one sees them.

    Args:
        started: the others.
    """

    def __init__(self, config: TrialConfig, started: Started) -> None:
        self._config, self._members, self._host = config, list(started.members), started.host
        self._share: Share | None = None
        self._plans = self._loads = -1  # what the others were told of
        self._of: State | None = None
        self._sound = True

    def join(self, setup: Setup) -> None:
        """Let the others build what they need, and form the group.

        Raises:
            ModelError: the model's own norms would wait for other processes.
        """
        if any(isinstance(module, nn.SyncBatchNorm) for module in setup.new_model().modules()):
            raise ModelError(
                "a SyncBatchNorm waits for all processes, also where only one of them looks at the model",
                "model.name",
                "torch.nn.BatchNorm2d in the model, and train.sync_norms: true",
            )
        train = self._config.train
        values = self._config.to_dict()
        for member in self._members:
            member.tell(to_bytes(("prepare", {"config": values, "device": member.device})))
        with self._together(PREPARE_S) as kinds:
            pass
        for rank, kind in kinds.items():
            if kind != setup.device.type:
                message = f"the first process trains on {setup.device.type}, process {rank} on {kind}"
                raise ConfigError(message, "train.device", "what does every node's torch see?")
        store, port = group.open_store(self._host, train.processes)
        model = State.fresh(setup).model
        options = {"sync_norms": train.sync_norms, "unused": has_unused(model, setup.example)}
        for member in self._members:
            about = {"rank": member.rank, "host": self._host, "port": port, "options": options}
            member.tell(to_bytes(("join", about)))
        with self._together():
            group.join(0, train.processes, setup.device, store)
        self._share = Share(0, train.processes, **options)
        log.info("%d processes train together", train.processes)

    def train(self, state: State, pace: Callable[[int], float] | None = None) -> float:
        """Train the state's next epoch together; as :func:`gcp_core.training.epoch.train_epoch`.

        Raises:
            Diverged: the loss was not finite.
            ProcessLost: one of the others is gone.
            Exception: what was raised in one of the others.
        """
        self._catch_up(state)
        setup, train, epoch = state.setup, self._config.train, state.epoch + 1
        steps = num_steps(setup.train_images, train.batch_size, train.processes)
        pace = pace or learning_pace(train, steps, self._config.prune)
        begin = (epoch - 1) * steps
        # A pace of the user's own is asked once, not by every process.
        rates = [pace(step) for step in range(begin, begin + steps)]
        penalty = packed({} if state.penalty is None else state_of(state.penalty))
        self._tell("train", epoch=epoch, rates=rates, begin=begin, penalty=penalty)
        share = required(self._share, "Team.join")
        with (
            self._together() as answers,
            share.training(state.model, len(setup.train_images), train.batch_size),
        ):
            loss = train_epoch(
                state.model,
                state.optimizer,
                setup,
                epoch,
                lambda step: rates[step - begin],
                state.penalty,
                state.steps,
                share,
            )
        self._check(state, answers, f"after training epoch {epoch}")
        return loss

    def marks(self, state: State) -> list[dict[str, str]]:
        """SHA-256 of plans, weights and optimiser state in every process, the first one's first."""
        self._tell("marks")
        with self._together() as answers:
            own = marks_of(state)
        return [own, *(answers[member.rank] for member in self._members)]

    def end(self) -> None:
        """End the others; those that do not do so by themselves are killed."""
        if self._sound:
            self._tell("leave")
            group.leave()
            Hearing(self._members, lambda: None).wait(_END_S)
        else:
            group.abort()
            group.leave()
        for member in self._members:
            member.end(_END_S if self._sound else 0.0)

    def _catch_up(self, state: State) -> None:
        """Let the others be where the first one is: cut what it has cut, or take over what it has taken over."""
        known = 0 if self._of is not state else self._plans
        plans = [plan.to_json() for plan in state.plans]
        if self._of is not state or state.loads != self._loads or (state.setup.repair and len(plans) > known):
            self._tell("take", plans=plans, tensors=packed(state.tensors()), rewritten=state.rewritten)
        elif len(plans) > known:
            self._tell("cut", plans=plans[known:])
        else:
            return
        with self._together() as answers:
            pass
        self._of, self._loads, self._plans = state, state.loads, len(plans)
        self._check(state, answers, f"before epoch {state.epoch + 1}")

    def _check(self, state: State, answers: Mapping[int, Any], when: str) -> None:
        own = mark_of(state)
        for rank, mark in answers.items():
            if mark != own:
                raise GcpError(
                    f"process {rank} has other weights than the first one {when}",
                    "train.processes",
                    "something in the model, the penalty or the rewrite differs from process to process",
                )

    def _tell(self, order: str, **about: Any) -> None:
        message = to_bytes((order, about))
        for member in self._members:
            member.tell(message)

    @contextlib.contextmanager
    def _together(self, timeout_s: float = group.PATIENCE_S) -> Iterator[dict[int, Any]]:
        """Around what the first process does meanwhile, after an order; filled with the others' answers at its end.

        Whatever goes wrong, here or there, ends what all of them do, and the first cause of it is what is raised.
        """
        hearing = Hearing(self._members, group.abort)
        was_sound, self._sound = self._sound, False
        try:
            yield hearing.answers
        except Diverged as exc:  # as in all the others, unless what was summed is what a lost one has left
            if not hearing.wait(timeout_s) or hearing.failures or hearing.gone:
                raise self._cause(hearing, None) from exc
            self._sound = was_sound
            raise
        except Exception as exc:
            cause = self._cause(hearing, exc)
            if cause is exc:
                raise
            raise cause from exc
        if not hearing.wait(timeout_s) or hearing.failures or hearing.gone:
            raise self._cause(hearing, None)
        self._sound = was_sound

    def _cause(self, hearing: Hearing, own: Exception | None) -> Exception:
        """Why it could not be done: ``own`` is what was raised here, which may follow from what happened there."""
        at = time.time()
        if own is None or isinstance(own, RuntimeError):  # as a lost connection is
            hearing.wait_for_failure(_REASON_S if own else 0.0)
        for rank in hearing.gone:
            how = next(member for member in self._members if member.rank == rank).end(_REASON_S)
            return _lost(f"process {rank} of {len(self._members) + 1} is gone ({how})")
        first = min(hearing.failures.items(), key=lambda failed: failed[1].at, default=None)
        if first is not None and (own is None or first[1].at < at):
            rank, failure = first
            failure.error.add_note(f"in process {rank} of {len(self._members) + 1}:\n{failure.text}")
            return failure.error
        if own is not None and not (isinstance(own, RuntimeError) and _TIMED_OUT.search(str(own))):
            return own
        silent = sorted({member.rank for member in self._members} - set(hearing.answers))
        return _lost(
            f"process {' or '.join(map(str, silent))} of {len(self._members) + 1} hangs: {own or 'no answer'}"
        )


def _lost(what: str) -> ProcessLost:
    return ProcessLost(
        what, "train.processes", "start the trial again: it goes on from its newest checkpoint"
    )
