"""Waiting for GPU memory, with memory that is told: no GPU is needed."""

from __future__ import annotations

import pytest

from sweeps.worker.gpu import free_memory, keep_to_share, wait_for_memory


class Memory:
    """Free bytes of 100, one answer after the other; the last one stays."""

    def __init__(self, *free: int) -> None:
        self.answers, self.slept = list(free), 0

    def __call__(self) -> tuple[int, int]:
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]), 100

    def sleep(self, seconds: float) -> None:
        self.slept += 1


@pytest.mark.parametrize(
    ("gpus", "free", "slept"),
    [(1.0, (90,), 0), (1.0, (10, 50, 85), 2), (0.25, (10, 21), 1), (2.0, (79, 80), 1)],
)
def test_a_trial_starts_once_its_share_is_free(gpus: float, free: tuple[int, ...], slept: int) -> None:
    memory = Memory(*free)
    assert wait_for_memory(gpus, memory, sleep=memory.sleep)
    assert memory.slept == slept


def test_memory_that_never_comes_free_is_said_and_not_waited_for_for_ever(caplog) -> None:
    memory = Memory(10)
    assert not wait_for_memory(1.0, memory, wait_s=5, sleep=memory.sleep)
    assert memory.slept == 6
    assert "after 5 s only" in caplog.text


def test_without_a_gpu_nothing_is_waited_for() -> None:
    def never() -> tuple[int, int]:
        raise AssertionError("asked")

    assert wait_for_memory(0.0, never)
    assert wait_for_memory(1.0), "torch sees no GPU here, or one with room"
    free_memory(0.0)
    free_memory(1.0)


@pytest.mark.parametrize(("gpus", "share"), [(0.25, 0.2375), (1.0, 1.0), (2.0, 1.0), (0.0, None)])
def test_a_trial_that_has_a_part_of_a_gpu_takes_no_more_of_its_memory(monkeypatch, gpus, share) -> None:
    import torch

    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    keep_to_share(gpus)
    assert asked == ([] if share is None else [pytest.approx(share)])
