"""What could be added to the cycles of a path: distillation from its dense snapshot, moving averages of the weights.

Both are penalties as ``train.penalty`` takes them, as they see every step; the second one changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from benchmarks.evidence.path_curves import rounded
from gcp_core.checkpoint import load_model
from gcp_core.config import TrialConfig
from gcp_core.models import build_model
from gcp_core.plan import Plan
from gcp_core.records.results import Snapshot
from gcp_core.training.evaluation import evaluate
from gcp_core.training.setup import build_setup

#: Shares of an average that stay at a step; an epoch of the studies has 157 steps.
DECAYS = (0.98, 0.995, 0.999)
#: What a forward pass costs of a step (forward and backward).
FORWARD = 1 / 3


class Distilled:
    """After the first event the loss is ``(1 - weight) CE + weight T^2 KL(teacher, network)``, both at temperature T.

    The teacher is the network as it was before that event. Source: Hinton et al., arXiv 1503.02531.
    """

    def __init__(self, model: str, weight: float, temperature: float) -> None:
        self.weight, self.temperature, self.taught = weight, temperature, False
        with torch.random.fork_rng():
            self.teacher = build_model(model, 10).eval().requires_grad_(False)

    def term(self, model: nn.Module, images: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
        """What the loss has more, or less, than the cross-entropy."""
        if not self.taught:
            return images.new_zeros(())
        with torch.no_grad():
            wanted = log_softmax(self.teacher.to(images.device)(images) / self.temperature, 1)
        apart = kl_div(
            log_softmax(outputs / self.temperature, 1), wanted, log_target=True, reduction="batchmean"
        )
        return self.weight * (self.temperature**2 * apart - cross_entropy(outputs, labels))

    def after_step(self, model: nn.Module) -> None:
        """Before the first event the teacher is as the network is."""
        if not self.taught:
            self.teacher.load_state_dict(model.state_dict())

    def on_plan(self, plan: Plan) -> None:
        """From now on it teaches."""
        self.taught = True

    def state_dict(self) -> dict[str, Any]:
        """Its teacher goes with the checkpoints."""
        return {"taught": int(self.taught), **self.teacher.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.taught = bool(state["taught"])
        self.teacher.load_state_dict({name: value for name, value in state.items() if name != "taught"})


def distilled(model: str = "vgg_tiny", weight: float = 0.5, temperature: float = 4.0) -> Distilled:
    """The factory that a config names."""
    return Distilled(model, weight, temperature)


class Averaged:
    """Moving averages of weights and norm statistics since the last event; the training is as it would be without.

    Attributes:
        newest: the one that has seen the last step of this process.
    """

    newest: ClassVar[Averaged | None] = None

    def __init__(self, decays: Sequence[float]) -> None:
        self.steps, self.means = 0, {decay: dict[str, Tensor]() for decay in decays}

    def term(self, model: nn.Module, images: Tensor, labels: Tensor, outputs: Any) -> Tensor:
        """Nothing."""
        return images.new_zeros(())

    def after_step(self, model: nn.Module) -> None:
        """Take the network as it is now into every average; the first ones count alike."""
        Averaged.newest = self
        self.steps += 1
        for decay, mean in self.means.items():
            for name, value in model.state_dict().items():
                if name not in mean:
                    mean[name] = value.clone()
                elif value.is_floating_point():
                    mean[name].lerp_(value, max(1 - decay, 1 / self.steps))

    def on_plan(self, plan: Plan) -> None:
        """Another network: begin anew."""
        self.steps = 0
        for mean in self.means.values():
            mean.clear()

    def state_dict(self) -> dict[str, Any]:
        """The averages go with the checkpoints."""
        tensors = {f"{d}|{name}": mean[name] for d, mean in self.means.items() for name in mean}
        return {"steps": self.steps, **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        Averaged.newest = self
        self.steps = int(state["steps"])
        for decay, mean in self.means.items():
            start = f"{decay}|"
            mean.clear()
            mean.update({name.removeprefix(start): v for name, v in state.items() if name.startswith(start)})


def averaged(decays: Sequence[float] = DECAYS) -> Averaged:
    """The factory that a config names."""
    return Averaged(decays)


class Look:
    """Evaluates the averages where a snapshot is taken, and keeps what it saw in a file: a later call adds to it."""

    def __init__(self, config: TrialConfig, file: Path) -> None:
        self.config, self.file = config, file

    def __call__(self, snapshot: Snapshot) -> None:
        """As ``snapshot`` of :func:`gcp_core.training.run_trial`."""
        average = Averaged.newest
        if average is None or not average.steps or snapshot.level in {line["level"] for line in self.lines()}:
            return
        assert snapshot.folder is not None, "snapshots are kept"
        setup = build_setup(self.config)
        with self.file.open("a") as out:
            for decay, mean in average.means.items():
                model = load_model(snapshot.folder)
                model.load_state_dict(mean)
                seen = evaluate(
                    model,
                    setup.splits.val,
                    setup.splits.normalise,
                    channels_last=self.config.train.channels_last,
                )
                finals = {**rounded(snapshot.finals), "val_accuracy": round(seen.accuracy, 3)}
                finals.pop("test_accuracy", None)  # that of the path's own weights
                about = {"level": snapshot.level, "epoch": snapshot.epoch, "averaged": decay}
                out.write(json.dumps({**about, **finals}) + "\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """What was seen so far, one line for every level and average."""
        if self.file.exists():
            yield from map(json.loads, self.file.read_text().splitlines())
