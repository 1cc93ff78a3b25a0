"""What every benchmark writes beside its numbers: machine, versions, command, date."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from gcp_core.models.devices import processor

ROOT = Path(__file__).resolve().parents[1]
#: Courses of trainings, as tables that several benchmarks read.
DATA = ROOT / "benchmarks" / "data"
RESULTS = ROOT / "benchmarks" / "results"


def environment() -> dict[str, Any]:
    """The machine and the versions that the numbers belong to."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        **_gpu(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        # A sweep's workers run with settings of their own (sweeps.driver.cluster.WORKER_ENV).
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "date": date.today().isoformat(),
        "command": " ".join(Path(word).name if "/" in word else word for word in sys.argv),
    }


def _gpu() -> dict[str, Any]:
    """Its name, and what decides beside it; only the name, None, where there is none."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def header() -> dict[str, Any]:
    """The first line of a table: what of the environment its numbers belong to."""
    made = environment()
    return {name: made[name] for name in ("cpu", "python", "torch", "threads", "date", "command")}


def add_out(parser: argparse.ArgumentParser) -> None:
    """The ``--out`` option of every benchmark."""
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")


def write(out: Path | None, results: Any) -> None:
    """Print the numbers, and write them with :func:`environment` if ``out`` is given."""
    content = {"environment": environment(), "results": results}
    print(json.dumps(content, indent=1))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n")
