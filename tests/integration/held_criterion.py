"""``l1`` that waits where the integration test of Slurm wants to find a trial: at the first sight of an event."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import torch

from gcp_core.criteria.weights import l1

#: Variable of the environment: the folder in which a trial that waits says so; without it none waits.
FOLDER = "HELD"


class Held:
    needs = "nothing"

    def score(self, model: Any, groups: Any, batches: Any, generator: Any) -> dict[str, torch.Tensor]:
        scores = l1().score(model, groups, batches, generator)
        if FOLDER in os.environ:
            _wait(Path(os.environ[FOLDER]), scores)
        return scores


def _wait(folder: Path, scores: dict[str, torch.Tensor]) -> None:
    """Until the test ends this process; a trial that comes here again goes on."""
    seen = hashlib.sha256(b"".join(score.numpy().tobytes() for score in scores.values())).hexdigest()
    if (folder / seen).exists():
        return
    said = folder / f"{os.getpid()}.part"
    said.write_text(str(os.getpid()))
    said.rename(folder / seen)  # whole, or not there
    threading.Event().wait()


def waiting(folder: Path) -> set[int]:
    """The processes that have waited so far, those that have ended among them."""
    return {int(said.read_text()) for said in folder.glob("*") if len(said.name) == 64}


def build() -> Held:
    return Held()
