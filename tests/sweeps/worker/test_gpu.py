"""Waiting for GPU memory, with memory that is told, and doing as trials do: no GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import ConfigError
from sweeps.records.provenance import collect
from sweeps.worker.gpu import (
    check_for,
    free_memory,
    in_place_of_trials,
    keep_to_share,
    more_than_trials,
    to_look_at,
    wait_for_memory,
)


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


class Asked(Exception):
    """What was asked is known: the rest need not run."""


@pytest.fixture
def sees_a_gpu(monkeypatch):
    """A process that sees a GPU; whoever uses it learns that there is none."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")


def fp16(device: str = "auto") -> TrialConfig:
    train = TrainConfig(epochs=3, precision="fp16", device=device)
    return TrialConfig(model=ModelConfig("vgg_tiny", 0.125), train=train, prune=PruneConfig(interval=1))


def test_in_place_of_trials_without_a_gpu_a_process_does_as_if_it_saw_none(sees_a_gpu) -> None:
    from gcp_core.models.devices import has_gpu, processor
    from gcp_core.training.setup import build_setup
    from gcp_core.training.team.processes import _devices

    several = TrialConfig(train=TrainConfig(processes=2, batch_size=16))
    with in_place_of_trials(0.0):
        assert not has_gpu()
        assert build_setup(TrialConfig(model=ModelConfig("vgg_tiny", 0.125))).device.type == "cpu"
        assert _devices(several) == ["cpu", "cpu"]
        assert collect(1)["device"] == processor()
        with in_place_of_trials(1.0):
            assert not has_gpu()
    assert has_gpu()
    assert collect(1)["device"] == "a GPU"
    with in_place_of_trials(0.25):
        assert has_gpu()


def test_a_trial_by_itself_that_takes_a_gpu_its_sweep_would_not_give_it_says_so(sees_a_gpu) -> None:
    from gcp_core.models.devices import on_cpu

    assert more_than_trials("auto", 0.0).startswith(
        "this trial takes a GPU; in a sweep with resources.gpus 0"
    )
    with on_cpu():
        assert more_than_trials("auto", 0.0) == ""
    assert (
        more_than_trials("auto", 1.0) == more_than_trials("cpu", 0.0) == more_than_trials("cuda", 0.0) == ""
    )


def test_a_trial_is_checked_for_what_it_will_have_not_for_what_the_driver_sees(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("auto", "cuda"):
        check_for(1.0)(fp16(device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="'fp16': a CPU trains in float32 or bf16"):
        check_for(0.0)(fp16())


@pytest.mark.parametrize(("device", "gpus"), [("cuda:1", 1.0), ("cuda:1", 0.25), ("cuda:4", 2.0)])
def test_a_gpu_of_the_node_that_a_trial_will_not_see_is_refused_before_any_trial(device, gpus) -> None:
    with pytest.raises(ConfigError, match=f"'{device}': a trial sees only what it is given, cuda:0"):
        check_for(gpus)(TrialConfig(train=TrainConfig(device=device)))


def test_elsewhere_a_trial_is_looked_at_with_the_widths_that_it_will_have(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prune = PruneConfig(round_to="auto")
    trial = TrialConfig(train=TrainConfig(precision="bf16", device="cuda"), prune=prune)
    seen = to_look_at(trial, 1.0)
    assert (seen.train.device, seen.train.precision, seen.pruning.multiple) == ("cpu", "fp32", 8)
    assert to_look_at(trial, 0.0) is trial


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_a_snapshot_is_polished_on_what_its_path_was_trained_on(
    tmp_path, monkeypatch, sees_a_gpu, gpus
) -> None:
    import gcp_core.training.polish as core
    from gcp_core.models.devices import has_gpu
    from sweeps.commands import polish

    seen = []

    def train_on(*args, **more):
        seen.append(has_gpu())
        raise Asked

    monkeypatch.setattr(core, "polish", train_on)
    for name in ("weights_at_hand", "check_disk"):
        monkeypatch.setattr(polish, name, lambda *_: None)
    config = SimpleNamespace(
        resources=SimpleNamespace(gpus=gpus), search=SimpleNamespace(needs=lambda name: False)
    )
    place = SimpleNamespace(folder=tmp_path, config=config)
    record = SimpleNamespace(job=SimpleNamespace(trial_id="t0000", config=None))
    with pytest.raises(Asked):
        polish._train(place, record, SimpleNamespace(level=1), 2, None, None)
    assert seen == [gpus > 0]


@pytest.mark.parametrize(
    ("gpus", "there", "found"),
    [
        (0.0, True, (False, "auto", "bf16")),  # run hides the GPU from such trials
        (1.0, True, (True, "auto", "bf16")),
        (1.0, False, (False, "cpu", "fp32")),  # the sweep is for another machine
    ],
)
def test_a_plan_is_timed_on_what_its_trials_will_have(tmp_path, monkeypatch, gpus, there, found) -> None:
    import torch

    from gcp_core.models.devices import has_gpu
    from sweeps.commands import forecast

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    seen = []

    def calibrate(trial, *_):
        seen.append((has_gpu(), trial.train.device, trial.train.precision))
        raise Asked

    monkeypatch.setattr(forecast, "calibrate", calibrate)
    trial = TrialConfig(train=TrainConfig(precision="bf16"), prune=PruneConfig())
    config = SimpleNamespace(resources=SimpleNamespace(gpus=gpus))
    with pytest.raises(Asked):
        forecast._times(config, [], [trial])
    assert seen == [found]


def test_a_driver_gives_back_the_memory_that_its_look_at_trials_has_taken(monkeypatch) -> None:
    from sweeps.driver import launch

    asked = []
    monkeypatch.setattr(launch, "check_space", lambda config, check: [])
    monkeypatch.setattr(launch, "free_memory", asked.append)
    launch._check_trials(SimpleNamespace(resources=SimpleNamespace(gpus=1.0)), launch.Launch())
    assert asked == [1.0]
