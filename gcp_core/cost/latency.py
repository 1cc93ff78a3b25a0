"""How long one forward pass takes, in eager torch, onnxruntime and OpenVINO: warmed up, repeated, with its spread.

Alone, a latency says little: it moves by 10-40 % with whatever else the machine does. Two models that take turns in one
process meet the same machine, so :func:`measure_against` gives their ratio with an interval, and repeats until that is
narrow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gcp_core.errors import GcpError, first_line
from gcp_core.extras import missing
from gcp_core.models.mode import mode

#: Rounds that two models take turns for at least, before their intervals are looked at.
FEWEST_ROUNDS = 20


@dataclass(frozen=True)
class SideBySide:
    """A model and a reference that took turns: milliseconds per forward pass, and the ratio of the two.

    Attributes:
        median_ms, low_ms, high_ms: of the model; the interval is that of the median (95 %, from the order of the times).
        reference_ms: median of the reference; ``reference_low_ms``, ``reference_high_ms``: its interval.
        share, share_low, share_high: model / reference: median over the rounds, with its interval.
        threads: intra-op threads during the measurement (on a GPU they do not matter).
        repeats: rounds; ``narrow``: whether the share's interval got as narrow as asked for within the time.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    reference_ms: float
    reference_low_ms: float
    reference_high_ms: float
    share: float
    share_low: float
    share_high: float
    batch_size: int
    threads: int
    repeats: int
    narrow: bool

    @property
    def noise(self) -> float:
        """Half the width of the wider interval, as a share of its middle: differences below it mean nothing."""
        return max(
            (self.high_ms - self.low_ms) / (self.high_ms + self.low_ms),
            (self.share_high - self.share_low) / (self.share_high + self.share_low),
        )


@contextmanager
def threads(number: int) -> Iterator[None]:
    """``number`` intra-op threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_calls(
    call: Callable[[], object],
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Milliseconds of each of ``repeats`` calls after ``warmup`` untimed ones, by ``clock`` (which gives seconds)."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append((clock() - start) * 1e3)
    return times


def time_side_by_side(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each of ``rounds`` calls, by name; every round calls each once, in turning order.

    What else the machine does hits all of them alike, so ratios of medians mean something where absolute times
    may not.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            times[name] += time_calls(calls[name], 1, 0, clock)
    return times


def measure_against(
    model: nn.Module,
    reference: nn.Module,
    example_input: Tensor,
    *,
    num_threads: int = 1,
    width: float = 0.02,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> SideBySide:
    """Eager-mode latency of ``model`` beside that of ``reference``: they take turns until the ratio is known well.

    Rounds are added until half the width of both intervals is at most ``width`` (a share), or ``seconds`` of timed
    rounds are spent; at least :data:`FEWEST_ROUNDS` are taken.
    """
    with (
        threads(num_threads),
        mode(model, training=False),
        mode(reference, training=False),
    ):
        pair = {
            "model": eager_forward(model, example_input),
            "reference": eager_forward(reference, example_input),
        }
        pairs, counts = {"eager": pair}, (len(example_input), num_threads)
        return compare_calls(pairs, *counts, width=width, seconds=seconds, clock=clock)["eager"]


def compare_calls(
    pairs: Mapping[str, Mapping[str, Callable[[], object]]],
    batch_size: int,
    num_threads: int,
    *,
    width: float = 0.02,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, SideBySide]:
    """For each named pair of calls, ``model`` and ``reference``: how they compare when they take turns.

    The pairs take turns too, each for :data:`FEWEST_ROUNDS` rounds after a few untimed ones: what the machine does
    meanwhile meets all of them, and one runtime's idle threads do not slow the next one's every call. A pair is done
    when half the width of both its intervals is at most ``width`` (a share), or after ``seconds`` of timed rounds.

    Args:
        batch_size, num_threads: only reported; the calls have them.
    """
    times: dict[str, dict[str, list[float]]] = {name: {"model": [], "reference": []} for name in pairs}
    done: dict[str, SideBySide] = {}
    warmup = 3
    while len(done) < len(pairs):
        for name in [name for name in pairs if name not in done]:
            for who, found in time_side_by_side(pairs[name], FEWEST_ROUNDS, warmup, clock).items():
                times[name][who] += found
            result = _side_by_side(times[name], batch_size, num_threads, width)
            if result.narrow or sum(map(sum, times[name].values())) >= 1e3 * seconds:
                done[name] = result
        warmup = 3 if len(pairs) > 1 else 0
    return {name: done[name] for name in pairs}


def _side_by_side(
    times: Mapping[str, list[float]], batch_size: int, num_threads: int, width: float
) -> SideBySide:
    shares = [a / b for a, b in zip(times["model"], times["reference"], strict=True)]
    low, median, high = median_interval(times["model"])
    share_low, share, share_high = median_interval(shares)
    reference_low, reference, reference_high = median_interval(times["reference"])
    found = SideBySide(
        median_ms=median,
        low_ms=low,
        high_ms=high,
        reference_ms=reference,
        reference_low_ms=reference_low,
        reference_high_ms=reference_high,
        share=share,
        share_low=share_low,
        share_high=share_high,
        batch_size=batch_size,
        threads=num_threads,
        repeats=len(shares),
        narrow=False,
    )
    return replace(found, narrow=found.noise <= width)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """``(low, median, high)``: the interval holds the true median in 95 of 100 cases or more, whatever the distribution.

    It ends at two of the values themselves, by the binomial law of how many lie below the median; with fewer than six
    values it is their whole range.
    """
    ordered, n = sorted(values), len(values)
    # The largest number of values that may be left out on either side: 2 P(no more than that lie below) <= 5 %.
    low, ways, cases = -1, 1, 1  # cases = sum of the ways to have 0 .. low + 1 values below
    while 40 * cases <= 2**n:
        low += 1
        ways = ways * (n - low) // (low + 1)
        cases += ways
    low = max(0, low)
    return ordered[low], statistics.median(ordered), ordered[n - 1 - low]


def onnx_forward(path: str | Path, num_threads: int = 1) -> Callable[[Tensor], Tensor]:
    """The model in an ONNX file as a function of a CPU tensor ``(N, C, H, W)``.

    Raises:
        GcpError: onnxruntime is not installed, or the file cannot be read as ONNX.
    """
    try:
        import onnxruntime
    except ImportError as exc:
        raise GcpError("this needs onnxruntime", str(path), missing("onnx")[1]) from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that wait for the next run would take the processor from whatever else is timed beside it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # its error classes are private; all of them mean that the file is of no use
        raise GcpError(f"cannot be read as ONNX: {first_line(exc)}", str(path)) from exc
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def openvino_forward(path: str | Path, num_threads: int = 1) -> Callable[[Tensor], Tensor]:
    """The model in an OpenVINO file (``.xml``, its ``.bin`` beside it), on the CPU in float32; or of an ONNX file.

    Raises:
        GcpError: openvino is not installed, or the file cannot be read.
    """
    try:
        import openvino
    except ImportError as exc:
        raise GcpError("this needs openvino", str(path), missing("openvino")[1]) from exc
    how = {
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", how)
    except Exception as exc:  # its errors are plain RuntimeErrors
        raise GcpError(f"cannot be read by OpenVINO: {first_line(exc)}", str(path)) from exc
    request = compiled.create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()], share_inputs=True)[0].copy())


def eager_forward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """One forward pass of ``model`` on these images, to its end on the device."""

    def forward() -> None:
        with torch.no_grad():
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return forward
