"""Another process of a trial, as the first one sees it, and what the two say to each other."""

from __future__ import annotations

import contextlib
import io
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from gcp_core.config import TrialConfig


class Member(Protocol):
    """One of the other processes. What is said to it is answered once, in order.

    Attributes:
        rank: 1 is the first of them.
        device: ``train.device`` as it is for that process.
    """

    rank: int
    device: str

    def tell(self, message: bytes) -> None:
        """Say something; nothing happens where it is gone."""
        ...

    def answer(self) -> bytes:
        """What it answers, once it does; another thread may wait for that.

        Raises:
            EOFError: it is gone.
        """
        ...

    def end(self, timeout_s: float) -> str:
        """End it, by force if it is still there after that time; how it ended, in words."""
        ...


@dataclass(frozen=True)
class Started:
    """What a :data:`Start` gives.

    Attributes:
        members: as many as are asked for but one, in their order.
        host: where they find the first process.
    """

    members: Sequence[Member]
    host: str = "127.0.0.1"


#: Starts the other processes of a trial; see :func:`gcp_core.training.team.processes.start_here`.
Start = Callable[[TrialConfig], Started]


@dataclass(frozen=True)
class Failure:
    """What an answer says where a process could not do what it was told.

    Attributes:
        error: the exception.
        text: its traceback.
        at: Unix time: where all fail, the first failure is the cause.
    """

    error: Exception
    text: str
    at: float = field(default_factory=time.time)


def failure_of(exc: Exception) -> Failure:
    """The failure to answer with."""
    text = "".join(traceback.format_exception(exc))
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(exc))
        return Failure(exc, text)
    # Some exceptions do not survive pickle.
    return Failure(RuntimeError(f"{type(exc).__name__}: {exc}"), text)


def to_bytes(said: Any) -> bytes:
    """A message or an answer, for a pipe or a network between processes of one trial."""
    return pickle.dumps(said)


def from_bytes(said: bytes) -> Any:
    """Inverse of :func:`to_bytes`."""
    return pickle.loads(said)


def packed(tensors: Mapping[str, Any]) -> bytes:
    """Tensors and plain values for a message: they arrive on the CPU, from whatever device they are."""
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    return buffer.getvalue()


def unpacked(said: bytes) -> dict[str, Any]:
    """Inverse of :func:`packed`."""
    return torch.load(io.BytesIO(said), map_location="cpu", weights_only=True)


class Hearing:
    """The answers of all members to one order, as they come.

    Args:
        failed: called, in another thread, as soon as one has failed or is gone.
    """

    def __init__(self, members: Sequence[Member], failed: Callable[[], None]) -> None:
        self.answers: dict[int, Any] = {}
        self.failures: dict[int, Failure] = {}
        self.gone: list[int] = []
        self._number, self._failed = len(members), failed
        self._changed = threading.Condition()
        for member in members:
            threading.Thread(target=self._hear, args=(member,), daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all have answered, or one never will; whether that was in time."""
        with self._changed:
            return self._changed.wait_for(self._over, timeout_s)

    def wait_for_failure(self, timeout_s: float) -> None:
        """Wait until one has failed or is gone, but not longer."""
        with self._changed:
            self._changed.wait_for(lambda: self.failures or self.gone, timeout_s)

    def _over(self) -> bool:
        return bool(self.failures or self.gone) or len(self.answers) == self._number

    def _hear(self, member: Member) -> None:
        try:
            said = from_bytes(member.answer())
        except EOFError:
            said = None
            with self._changed:
                self.gone.append(member.rank)
        with self._changed:
            if isinstance(said, Failure):
                self.failures[member.rank] = said
            elif member.rank not in self.gone:
                self.answers[member.rank] = said
            failed = member.rank not in self.answers
            self._changed.notify_all()
        if failed:
            self._failed()
