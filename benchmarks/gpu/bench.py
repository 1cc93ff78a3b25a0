"""What the pieces of the kit share: sizes, images, the clock."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gcp_core.config import DataConfig, ModelConfig, TrainConfig, TrialConfig


class OutOfTime(Exception):
    """The call's time is over; what was reached is on disk, and the next call goes on there."""


@dataclass(frozen=True)
class Kit:
    """One call of the kit.

    Attributes:
        smoke: the smallest size: that everything runs, not how fast it is.
        data: folder of the packed CIFAR-10, None = made images.
        work: what pieces keep between calls.
        deadline: of the clock ``time.monotonic``.
    """

    smoke: bool
    data: Path | None
    work: Path
    deadline: float

    @property
    def device(self) -> torch.device:
        """The first GPU, else the CPU."""
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """Raise :class:`OutOfTime` once the deadline has passed."""
        if self.left_s < 0:
            raise OutOfTime

    @property
    def machine(self) -> str:
        """The device by its name."""
        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"

    def kept(self, piece: str) -> Path:
        """Where the parts of a piece lie until all are there; what another device or made images gave lies elsewhere."""
        about = f"{self.machine} {'made' if self.data is None else 'packed'}".replace("/", " ").replace(
            " ", "_"
        )
        return self.work / f"{'smoke' if self.smoke else 'full'}-{piece}-{about}.parts.json"

    def parts(self, piece: str, works: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """What each work gives, by name, as ``parts``, and the names of those there was no time for as ``left``.

        What an earlier call has done on this device is not done again.
        """
        file = self.kept(piece)
        done: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        for name, work in works.items():
            if name not in done and self.left_s > 0:
                done[name] = work()
                print(f"  {name}: {done[name]}", flush=True)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(done))
        return {
            "parts": {name: done[name] for name in works if name in done},
            "left": [name for name in works if name not in done],
        }

    def images(self, number: int | None = None) -> DataConfig:
        """CIFAR-10 if it is there; in the smallest size a few."""
        size: dict[str, Any] = (
            {"train_images": 256, "val_images": 128} if self.smoke else {"val_images": 5000}
        )
        if number is not None and not self.smoke:
            size["train_images"] = number
        if self.data is None:
            return DataConfig("benchmarks.gpu.images:made", augment="crop_flip", **size)
        return DataConfig("benchmarks.gpu.images:packed", path=str(self.data), augment="crop_flip", **size)

    def model(self, name: str) -> ModelConfig:
        """The network; in the smallest size a narrow VGG in its place."""
        return ModelConfig("vgg_tiny", 0.25) if self.smoke and "vgg" in name else ModelConfig(self.name(name))

    def name(self, name: str) -> str:
        """The network that stands for ``name`` at this size."""
        return "resnet20" if self.smoke and name.startswith("resnet") else name

    def trial(self, model: str, train: Mapping[str, Any], prune: Any = None) -> TrialConfig:
        """A trial on these images, on the kit's device."""
        made = TrainConfig(**{"batch_size": 128, "device": str(self.device), **train})
        return TrialConfig(data=self.images(), model=self.model(model), train=made, prune=prune)


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    works: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, warm: int = 1
) -> dict[str, float]:
    """Milliseconds of each work, median over the rounds; every round does each of them once, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warm, rounds):
        for name, work in works.items():
            wait(device)
            start = time.perf_counter()
            work()
            wait(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: round(1000 * statistics.median(values), 3) for name, values in seconds.items()}


def peak_mib(device: torch.device, work: Callable[[], Any]) -> float | None:
    """MiB that the work takes at most on top of what is there; None on a CPU."""
    if device.type != "cuda":
        work()
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    wait(device)
    return round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
