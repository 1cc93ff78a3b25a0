"""Latency: how it is sampled, not how fast the machine is."""

import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from gcp_core.cost.latency import (
    FEWEST_ROUNDS,
    compare_calls,
    measure_against,
    median_interval,
    onnx_forward,
    time_side_by_side,
)
from gcp_core.errors import GcpError


def test_side_by_side_calls_take_turns_and_turn_the_order():
    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = time_side_by_side(calls, rounds=3, warmup=1)
    assert "".join(seen) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GcpError, match=r"net\.onnx: this needs onnxruntime .*gcp-sweep\[onnx\]"):
        onnx_forward("net.onnx")


def test_a_file_that_is_no_onnx_is_named(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(GcpError, match=r"net\.onnx: cannot be read as ONNX"):
        onnx_forward(path)


class Clock:
    """Time that passes only while a :class:`Timed` model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """Takes the given milliseconds, one after the other, again and again; ``log`` remembers who ran."""

    def __init__(self, clock, name, log, milliseconds) -> None:
        super().__init__()
        self.clock, self.name, self.log, self.times = clock, name, log, itertools.cycle(milliseconds)

    def forward(self, x):
        self.log.append((self.name, torch.get_num_threads()))
        self.clock.now += next(self.times) * 1e-3
        return x


def beside(model_ms, reference_ms, **options):
    clock, log = Clock(), []
    pair = (Timed(clock, "m", log, model_ms), Timed(clock, "r", log, reference_ms))
    return measure_against(*pair, torch.zeros(1, 1, 2, 2), clock=clock, **options), log


def test_a_model_and_its_reference_take_turns_on_the_threads_that_are_reported():
    before = torch.get_num_threads()
    found, log = beside([1], [2], num_threads=2)
    assert (found.median_ms, found.reference_ms, found.share, found.noise) == pytest.approx((1, 2, 0.5, 0))
    assert (found.threads, found.repeats, found.narrow) == (2, FEWEST_ROUNDS, True)
    warmed_up = "".join(name for name, _ in log[6:])
    assert warmed_up == "mrrm" * (FEWEST_ROUNDS // 2)
    assert {number for _, number in log} == {2}
    assert torch.get_num_threads() == before


class Spy(nn.Module):
    """Remembers batch size, mode and grad mode of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.calls = nn.Dropout(), set()

    def forward(self, x):
        self.calls.add((len(x), self.dropout.training, torch.is_grad_enabled()))
        return x


def test_both_models_are_timed_in_eval_mode_without_gradients_and_get_their_mode_back():
    model, reference = Spy(), Spy()
    measure_against(model, reference, torch.zeros(3, 1, 2, 2), seconds=0.0)
    for spy in (model, reference):
        assert spy.calls == {(3, False, False)}
        assert spy.dropout.training


def test_a_machine_that_slows_down_both_does_not_move_their_ratio():
    # Every third round everything takes three times as long (the warm-up takes three).
    found, _ = beside([1, 1, 3], [2, 2, 6], seconds=0.3)
    assert (found.share, found.share_low, found.share_high) == pytest.approx((0.5, 0.5, 0.5))


def test_rounds_are_added_until_the_interval_is_narrow():
    # Four slow passes among the first twenty; then the model is steady and the interval of its median narrows.
    found, _ = beside([2] * 3 + [1, 2, 2, 2] * 5 + [2] * 10_000, [2], seconds=100)
    assert found.narrow
    assert found.repeats == FEWEST_ROUNDS
    wide, _ = beside([2] * 3 + [1, 3] * 10 + [2] * 10_000, [2], seconds=100)
    assert wide.narrow
    assert wide.repeats > FEWEST_ROUNDS
    assert wide.noise <= 0.02


def test_a_measurement_that_stays_noisy_ends_in_time_and_says_so():
    found, _ = beside([1, 3], [2], seconds=0.5)
    assert not found.narrow
    assert found.noise == pytest.approx(0.5)  # 1 to 3 ms
    assert 0.5 <= found.repeats * (2 + 2) * 1e-3 < 0.5 + FEWEST_ROUNDS * 4 * 1e-3


@pytest.mark.parametrize("number", [8, 21, 60])
def test_the_interval_of_a_median_holds_it_in_about_95_of_100_cases(number):
    rng = np.random.default_rng(number)
    intervals = [median_interval(list(rng.exponential(size=number))) for _ in range(2000)]
    held = np.mean([low <= np.log(2) <= high for low, _, high in intervals])
    assert 0.93 <= held <= 0.995
    assert median_interval([3.0, 1.0]) == (1.0, 2.0, 3.0)


def test_pairs_take_turns_until_each_is_known_well_and_the_reference_has_an_interval_too():
    """A clock that gives every call its own length: 1 and 2 ms, and 3 ms for both calls of the second pair."""
    now, lengths, seen = [0.0], {"a": 1.0, "b": 2.0, "c": 3.0}, []

    def call(name: str):
        def run() -> None:
            seen.append(name)
            now[0] += lengths[name] / 1e3

        return run

    pairs = {
        "one": {"model": call("a"), "reference": call("b")},
        "two": {"model": call("c"), "reference": call("c")},
    }
    found = compare_calls(pairs, 4, 2, clock=lambda: now[0])
    one, two = found["one"], found["two"]
    assert list(found) == ["one", "two"]
    assert one.share == pytest.approx(0.5)
    assert (one.reference_low_ms, one.reference_high_ms) == (pytest.approx(2.0), pytest.approx(2.0))
    assert two.share == pytest.approx(1.0)
    assert (one.batch_size, one.threads, one.repeats, one.narrow) == (4, 2, FEWEST_ROUNDS, True)
    # Three untimed calls each, then turns; the second pair only after the first one's rounds.
    assert seen[:8] == ["a"] * 3 + ["b"] * 3 + ["a", "b"]
    assert "c" not in seen[: 6 + 2 * FEWEST_ROUNDS]
