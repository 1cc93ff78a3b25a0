"""Where a result comes from: versions, commit, device, data. Recorded by the process that ends a trial.

Everything here can change the last bit of the weights; ``gcp-sweep replay`` compares it with what it finds. Neither ray
nor optuna nor mlflow is imported: their versions are read from the installed packages' metadata.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from gcp_core import schema
from gcp_core.redaction import clean
from gcp_core.schema import Tag

#: Packages whose versions are recorded, besides Python's own.
PACKAGES = ("torch", "torchvision", "numpy", "ray", "optuna", "mlflow")
#: What decides about the weights, with the words used when it differs. The rest is recorded for people.
DECISIVE = {
    "torch": "torch",
    "numpy": "numpy",
    "torchvision": "torchvision",
    "code": "digest of gcp_core's source",
    "git_sha": "git commit",
    "device": "device",
    "cpu_capability": "CPU instructions used by torch",
    "threads": "threads",
    "data_digest": "digest of the data",
}


def collect(threads: int, model_folder: Path | None = None) -> dict[str, str]:
    """Versions, commit, device and threads of this process, and the data digest of the model in ``model_folder``."""
    return clean(
        {
            **versions(),
            "git_sha": source_sha(),
            **_torch_facts(),
            "device": _device(),
            "threads": str(threads),
            **_of_model(model_folder),
        }
    )


def tags(weights_sha256: str, provenance: Mapping[str, str]) -> dict[str, str]:
    """What MLflow shows of it, by tag name; unknown values are left out."""
    named = ("python", *PACKAGES)
    found = {
        Tag.WEIGHTS: weights_sha256,
        Tag.DATA_DIGEST: provenance.get("data_digest", ""),
        Tag.DEVICE: provenance.get("device", ""),
        Tag.THREADS: provenance.get("threads", ""),
        Tag.VERSIONS: " ".join(f"{name}={provenance[name]}" for name in named if name in provenance),
    }
    return {name: value for name, value in found.items() if value}


def differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line per decisive entry that is known on both sides and differs: ``torch: 2.15.0 -> 2.14.1``.

    Another commit does not count as long as the code that trains is the same.
    """
    same_code = "code" in now and recorded.get("code") == now["code"]
    return [
        f"{words}: {recorded[name]} -> {now[name]}"
        for name, words in DECISIVE.items()
        if name in recorded
        and name in now
        and recorded[name] != now[name]
        and not (name == "git_sha" and same_code)
    ]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of :data:`PACKAGES`, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def source_sha() -> str:
    """Commit of the repository that ``gcp_core`` is run from; ``unknown`` if it is installed elsewhere."""
    return git_sha(Path(schema.__file__).parent)


def git_sha(folder: Path | None = None) -> str:
    """Commit of ``folder`` (default: the working directory), with ``-dirty`` if tracked files were changed.

    ``unknown`` outside a repository.
    """

    def git(*words: str) -> str:
        command = ["git", *([] if folder is None else ["-C", str(folder)]), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        sha = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{sha}-dirty" if changes else sha


@functools.cache
def _torch_facts() -> dict[str, str]:
    import torch

    from gcp_core.records.stages import code_digest

    return {"code": code_digest(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def _device() -> str:
    import torch

    from gcp_core.models.devices import has_gpu, processor

    return torch.cuda.get_device_name() if has_gpu() else processor()


def _of_model(folder: Path | None) -> dict[str, str]:
    """What the core wrote beside the weights; a runner of the user's own may write nothing."""
    if folder is None:
        return {}
    try:
        manifest = json.loads((folder / schema.ARTIFACT_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    digest = manifest.get("data_digest")
    return {"data_digest": digest} if isinstance(digest, str) else {}
