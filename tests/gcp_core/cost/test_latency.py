"""Latency: how it is sampled, not how fast the machine is."""

import sys

import pytest
import torch
from torch import nn

from gcp_core.cost.latency import latency_table, measure_latency, measure_onnx_latency, time_side_by_side
from gcp_core.errors import ConfigError, GcpError


class Spy(nn.Module):
    """Remembers batch size, mode, thread count and grad mode of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.calls = []

    def forward(self, x):
        self.calls.append((len(x), self.dropout.training, torch.get_num_threads(), torch.is_grad_enabled()))
        return x


def test_eager_latency_warms_up_repeats_and_puts_mode_and_threads_back():
    spy, before = Spy(), torch.get_num_threads()
    result = measure_latency(spy, torch.zeros(3, 1, 2, 2), num_threads=2, repeats=4, warmup=3)
    assert spy.calls == [(3, False, 2, False)] * 7
    assert (result.batch_size, result.threads, result.repeats, result.runtime) == (3, 2, 4, "eager")
    assert 0 < result.low_ms <= result.median_ms <= result.high_ms
    assert spy.dropout.training
    assert torch.get_num_threads() == before


def test_side_by_side_calls_take_turns_and_turn_the_order():
    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "ab"}
    times = time_side_by_side(calls, rounds=3, warmup=1)
    assert "".join(seen) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_the_table_has_a_row_for_one_image_and_for_many():
    spy = Spy()
    table = latency_table(spy, torch.zeros(2, 1, 2, 2), batch_sizes=(1, 5), repeats=2, warmup=1)
    assert [(row.runtime, row.batch_size) for row in table] == [("eager", 1), ("eager", 5)]
    assert [size for size, *_ in spy.calls] == [1, 1, 1, 5, 5, 5]


@pytest.mark.parametrize("repeats", [0, 1])
def test_a_spread_needs_two_repeats(repeats):
    with pytest.raises(ConfigError, match=f"repeats: {repeats} is too few for a spread"):
        measure_latency(Spy(), torch.zeros(1, 1, 2, 2), repeats=repeats)


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GcpError, match=r"net\.onnx: this needs onnxruntime .*gcp-sweep\[onnx\]"):
        measure_onnx_latency("net.onnx", torch.zeros(1, 3, 8, 8))


def test_a_file_that_is_no_onnx_is_named(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(GcpError, match=r"net\.onnx: cannot be read as ONNX"):
        measure_onnx_latency(path, torch.zeros(1, 3, 8, 8))
