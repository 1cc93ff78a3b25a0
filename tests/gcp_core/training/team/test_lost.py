"""A loss that is not finite is the trial's own only where all processes are there to say so."""

import pytest

from gcp_core.config import TrainConfig, TrialConfig
from gcp_core.errors import Diverged, ProcessLost
from gcp_core.training.team.member import Started, failure_of, to_bytes
from gcp_core.training.team.team import Team


class Other:
    """Another process that answers one thing, or is gone."""

    rank, device = 1, "cpu"

    def __init__(self, said: object = None) -> None:
        self._said = said

    def tell(self, message: bytes) -> None:
        pass

    def answer(self) -> bytes:
        if self._said is None:
            raise EOFError
        return to_bytes(self._said)

    def end(self, timeout_s: float) -> str:
        return "killed by signal 9"


def diverge(other: Other) -> None:
    team = Team(TrialConfig(train=TrainConfig(processes=2, batch_size=16)), Started([other]))
    with team._together():
        raise Diverged("the training loss is nan in epoch 1")


def test_a_loss_that_is_not_finite_in_all_processes_is_the_trial_s_own():
    with pytest.raises(Diverged):
        diverge(Other("a mark"))


def test_a_loss_that_is_not_finite_where_a_process_is_gone_is_a_lost_process():
    with pytest.raises(ProcessLost, match=r"process 1 of 2 is gone \(killed by signal 9\)"):
        diverge(Other())


def test_a_loss_that_is_not_finite_where_a_process_has_failed_is_that_failure():
    with pytest.raises(LookupError, match="the cause"):
        diverge(Other(failure_of(LookupError("the cause"))))
