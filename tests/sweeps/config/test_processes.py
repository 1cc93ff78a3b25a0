"""A trial has a process for each of its GPUs, and its key says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from tests.sweeps.inline import config


def _trial(tmp_path: Path, **overrides: Any) -> TrialConfig:
    made = config(tmp_path, {name.replace("__", "."): value for name, value in overrides.items()})
    return made.space.resolve(made.space.first(), made.resources.cpus)


def test_several_gpus_are_as_many_processes_and_the_key_says_so(tmp_path: Path) -> None:
    four = _trial(tmp_path, resources__gpus=4)
    assert four.train.processes == 4
    keys = {_trial(tmp_path, resources__gpus=gpus).key() for gpus in (0, 0.5, 1)}
    assert keys == {_trial(tmp_path).key()}
    assert len({four.key(), _trial(tmp_path, resources__gpus=2).key(), *keys}) == 3
    assert config(tmp_path, {"resources.gpus": 4}).tree["train"]["processes"] == 4


@pytest.mark.parametrize(
    ("device", "gpus"), [("cuda", 0.25), ("cuda", 2), ("auto", 0), ("cpu", 0), ("cpu", 1)]
)
def test_a_trial_may_have_a_gpu_that_it_was_given_or_none(tmp_path: Path, device: str, gpus: float) -> None:
    assert _trial(tmp_path, resources__gpus=gpus, train__device=device).train.device == device


def test_the_baseline_has_as_many(tmp_path: Path) -> None:
    assert _trial(tmp_path, resources__gpus=2).baseline().train.processes == 2


@pytest.mark.parametrize(("cpus", "gpus", "processes", "threads"), [(8, 4, 1, 2), (1, 4, 1, 1), (4, 0, 2, 2)])
def test_the_processes_share_the_cpus_of_their_trial(
    tmp_path: Path, cpus: int, gpus: int, processes: int, threads: int
) -> None:
    more = {"resources__cpus": cpus, "resources__gpus": gpus, "train__processes": processes}
    assert _trial(tmp_path, **more).threads == threads


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"resources__gpus": 3, "train__batch_size": 128},
            r"train\.processes: 3 processes cannot share batches of 128 images evenly.*train\.batch_size: 129",
        ),
        ({"resources__gpus": 1.5}, r"resources\.gpus: 1\.5 GPUs per trial \(a whole number, or"),
        (
            {"resources__gpus": 4, "train__processes": 2},
            r"train\.processes: 2 processes, but 4 GPUs per trial \(leave it out",
        ),
        (
            {"resources__gpus": 0.5, "train__processes": 2},
            r"train\.processes: 2 processes need a GPU each, but there is 0\.5 per trial \(resources\.gpus: 2",
        ),
        (
            {"resources__gpus": 0, "train__device": "cuda"},
            r"train\.device: 'cuda', but a trial has no GPU \(resources\.gpus: 1, or a part of one",
        ),
        (
            {"resources__gpus": 0, "train__device": "cuda:1"},
            r"train\.device: 'cuda:1', but a trial has no GPU",
        ),
        ({"resources__spread": True}, r"resources\.spread: a trial of one process is on one node"),
        ({"train__processes": {"choice": [1, 2]}}, r"train\.processes: is not searched"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_started(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _trial(tmp_path, **overrides)
