"""How fast a chosen model is on this machine, beside the unpruned one, and what 8 bits cost it in accuracy.

Pruned and unpruned model take turns in one process, runtime by runtime, so their ratio means something on a machine
that does other things as well; intervals are of the median (95 %), from the order of the times. Accuracy is that of the
validation images, by each runtime's own outputs. The result is a file of plain JSON (:func:`write`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from analysis.ship import hashed
from analysis.ship.checkpoints import Files
from analysis.ship.hashed import HastePlan, HasteResult
from analysis.ship.images import images_of
from analysis.ship.measured import FORMAT, INT8, ONNX, OPENVINO, TORCH
from analysis.ship.runtimes import calibration, val_accuracy
from gcp_core.config import TrialConfig
from gcp_core.cost.latency import (
    SideBySide,
    compare_calls,
    eager_forward,
    onnx_forward,
    openvino_forward,
    threads,
)
from gcp_core.data import Splits
from gcp_core.errors import ConfigError
from gcp_core.export import export_int8, export_onnx, export_openvino
from gcp_core.extras import missing
from gcp_core.models import build_model
from gcp_core.models.devices import processor
from gcp_core.records.checkpoint import load_model

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Runtime -> the extra of pip that it needs.
RUNTIMES = {TORCH: "", ONNX: "onnx", INT8: "onnx", OPENVINO: "openvino"}


@dataclass(frozen=True)
class Timed:
    """One line of the table: a runtime at a batch size and a number of threads."""

    runtime: str
    latency: SideBySide


@dataclass(frozen=True)
class Accuracy:
    """Validation accuracy in per cent by one runtime; ``dense`` is the baseline's, None without its weights."""

    runtime: str
    model: float
    dense: float | None
    images: int


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        skipped: runtime -> why it was not measured, and what installs it.
        machine: processor, cores, load average before and after, and versions, in words.
        haste: the model with hashed convolutions; None = not asked for.
    """

    model: str
    sha256: str
    dense: str
    timed: tuple[Timed, ...]
    accuracies: tuple[Accuracy, ...]
    skipped: dict[str, str]
    machine: dict[str, str]
    haste: HasteResult | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the file and ``--json`` have them; no ``haste`` where it was not asked for."""
        values = dataclasses.asdict(self)
        if self.haste is None:
            del values["haste"]
        values["timed"] = [{"runtime": t.runtime, **dataclasses.asdict(t.latency)} for t in self.timed]
        values["accuracies"] = [dataclasses.asdict(a) for a in self.accuracies]
        return {"format": FORMAT, **values}


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        runtimes: names of :data:`RUNTIMES`; None = all that are installed here.
        accuracy: also evaluate on the validation images; without, there is no int8 either, which needs images.
        seconds, width: per line, as :func:`gcp_core.cost.latency.compare_calls` has them.
        data_path: where the data is on this machine, if it has moved since the trial.
        clock: ``wall``, or ``cpu``: the processor's time of this process, which with one thread is what the wall clock
            would show on a quiet machine.
        haste: measure the model with hashed convolutions too (``accuracy`` is needed); None = no.
    """

    batch_sizes: tuple[int, ...] = (1, 64)
    threads: tuple[int, ...] = (1,)
    runtimes: tuple[str, ...] | None = None
    accuracy: bool = True
    seconds: float = 2.0
    width: float = 0.02
    data_path: str | None = None
    clock: str = "wall"
    haste: HastePlan | None = None


def bench(files: Files, plan: Plan) -> Bench:
    """Measure the model in ``files`` beside the unpruned one.

    Raises:
        CheckpointError: a file was changed, or the data is not what the model was trained on.
        ConfigError: a runtime that was asked for is not installed or needs images that are left out, the clock would
            add up several threads, or hashing would have no images.
        ModelError: hashing is asked for, and none of the convolutions can be replaced.
    """
    if plan.haste is not None and not plan.accuracy:
        message = "what is merged depends on the images"
        raise ConfigError(message, "--haste", "leave --latency-only out")
    if plan.clock == "cpu" and max(plan.threads) > 1:
        raise ConfigError("would add up the time of all threads", "--clock cpu", "measure with --threads 1")
    wanted, skipped = _wanted(plan)
    config = TrialConfig.from_dict(files.manifest["config"])
    model, dense = load_model(files.model), _dense(files, config)
    image = torch.randn(1, int(files.manifest["in_channels"]), *map(int, files.manifest["image_size"]))
    before = _load()
    with tempfile.TemporaryDirectory() as work:
        splits = images_of(config.data, files.manifest, files.name, plan.data_path) if plan.accuracy else None
        merged = (
            None
            if splits is None or plan.haste is None
            else hashed.measure(files.model, splits, plan.haste, max(plan.threads), plan.clock)
        )
        made = {
            who: _Runtimes(net, image, Path(work) / who, wanted, splits, config.train.channels_last)
            for who, net in (("model", model), ("reference", dense))
        }
        timed = tuple(
            Timed(runtime, found)
            for number in plan.threads
            for size in plan.batch_sizes
            for runtime, found in _times(made, wanted, image, size, number, plan).items()
        )
        accuracies = (
            ()
            if splits is None
            else tuple(_accuracies(made, wanted, splits, max(plan.threads), files.baseline is not None))
        )
    described = "baseline, trained" if files.baseline is not None else "same network, unpruned and untrained"
    clock = "processor time of the process" if plan.clock == "cpu" else "wall clock"
    machine = {**_machine(wanted), "clock": clock, "load average": f"{before} before, {_load()} after"}
    sha256 = str(files.manifest["sha256"])
    return Bench(files.name, sha256, described, timed, accuracies, skipped, machine, merged)


def write(result: Bench, path: Path) -> Path:
    """Write the result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


class _Runtimes:
    """One network in every runtime; files are written once, sessions are made per number of threads."""

    def __init__(
        self,
        net: nn.Module,
        image: Tensor,
        work: Path,
        wanted: Sequence[str],
        splits: Splits | None,
        channels_last: bool,
    ) -> None:
        self.net = net.eval()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._onnx, self._int8, self._openvino = (work / name for name in ("a.onnx", "int8.onnx", "a.xml"))
        if {ONNX, INT8, OPENVINO} & set(wanted):
            export_onnx(self.net, image, self._onnx)
        if OPENVINO in wanted:
            export_openvino(self.net, self._onnx, self._openvino)
        if INT8 in wanted and splits is not None:
            export_int8(self._onnx, calibration(splits), self._int8)
        self.net.to(memory_format=self._layout)

    def forward(self, runtime: str, number: int) -> Callable[[Tensor], Tensor]:
        """The network as a function of a CPU tensor, with ``number`` threads (torch's are set by the caller)."""
        if runtime == TORCH:
            return lambda images: self.net(images.contiguous(memory_format=self._layout))
        if runtime == OPENVINO:
            return openvino_forward(self._openvino, number)
        return onnx_forward(self._int8 if runtime == INT8 else self._onnx, number)

    def call(self, runtime: str, number: int, images: Tensor) -> Callable[[], object]:
        """One forward pass on these images."""
        if runtime == TORCH:
            return eager_forward(self.net, images.contiguous(memory_format=self._layout))
        forward = self.forward(runtime, number)
        return lambda: forward(images)


def _wanted(plan: Plan) -> tuple[list[str], dict[str, str]]:
    """Runtimes to measure, and why the others are not."""
    skipped: dict[str, str] = {}
    for runtime in plan.runtimes or RUNTIMES:
        package, hint = missing(*([RUNTIMES[runtime]] if RUNTIMES[runtime] else []))
        if package and plan.runtimes:
            raise ConfigError(f"needs {package}", f"--runtime {runtime!r}", hint)
        if package:
            skipped[runtime] = f"{package} is not installed: {hint}"
        elif runtime == INT8 and not plan.accuracy and plan.runtimes:
            raise ConfigError(
                "quantisation needs training images", f"--runtime {runtime!r}", "leave --latency-only out"
            )
        elif runtime == INT8 and not plan.accuracy:
            skipped[runtime] = "quantisation needs training images; leave --latency-only out"
    return [r for r in plan.runtimes or RUNTIMES if r not in skipped], skipped


def _dense(files: Files, config: TrialConfig) -> nn.Module:
    """The baseline, or the same network with fresh weights: latency does not depend on their values."""
    if files.baseline is not None:
        return load_model(files.baseline)
    shape = int(files.manifest["num_classes"]), int(files.manifest["in_channels"])
    return build_model(config.model.name, *shape, config.model.width).eval()


@torch.no_grad()
def _times(
    made: Mapping[str, _Runtimes], wanted: Sequence[str], image: Tensor, size: int, number: int, plan: Plan
) -> dict[str, SideBySide]:
    images = image.expand(size, *image.shape[1:]).contiguous()
    pairs = {
        runtime: {who: nets.call(runtime, number, images) for who, nets in made.items()} for runtime in wanted
    }
    clock = time.process_time if plan.clock == "cpu" else time.perf_counter
    with threads(number):
        return compare_calls(pairs, size, number, width=plan.width, seconds=plan.seconds, clock=clock)


@torch.no_grad()
def _accuracies(
    made: Mapping[str, _Runtimes], wanted: Sequence[str], splits: Splits, number: int, trained: bool
) -> list[Accuracy]:
    found = []
    with threads(number):
        for runtime in wanted:
            model = val_accuracy(made["model"].forward(runtime, number), splits)
            dense = val_accuracy(made["reference"].forward(runtime, number), splits) if trained else None
            found.append(Accuracy(runtime, model, dense, len(splits.val)))
    return found


def _machine(wanted: Sequence[str]) -> dict[str, str]:
    versions = [f"torch {torch.__version__}"]
    if ONNX in wanted or INT8 in wanted:
        import onnxruntime

        versions.append(f"onnxruntime {onnxruntime.__version__}")
    if OPENVINO in wanted:
        import openvino

        versions.append(f"openvino {openvino.__version__}")
    return {"processor": processor(), "cores": str(os.cpu_count()), "versions": ", ".join(versions)}


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
