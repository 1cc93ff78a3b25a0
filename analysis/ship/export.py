"""From a chosen model to a folder that can be shipped: proven first, written whole or not at all.

The model is rebuilt in a fresh process from weights and plans, counted and evaluated again, exported and
compared. Only if everything agrees with what was logged does the finished folder move into place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.errors import VerificationError
from analysis.ship.card import model_card
from analysis.ship.checkpoints import collect
from gcp_core.errors import ConfigError
from gcp_core.extras import missing

if TYPE_CHECKING:
    import pandas as pd

CARD = "MODEL_CARD.md"
#: What the fresh process writes; not imported from there, because that would load torch here.
PROOF = "proof.json"
#: Exported and rebuilt model may differ by rounding: fused kernels add in another order.
EXPORT_TOLERANCE = 1e-5
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Check:
    """One comparison: the logged value, the value measured now, and whether they agree well enough."""

    name: str
    logged: float
    measured: float
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    folder: Path
    model: str
    checks: tuple[Check, ...]
    proof: dict[str, Any]
    sha256: str


def export(
    df: pd.DataFrame,
    model: str,
    out: Path,
    *,
    reason: str = "",
    onnx: bool = False,
    int8: bool = False,
    openvino: bool = False,
    data_path: str | None = None,
) -> Exported:
    """Prove ``model`` (``t0007@3``, or ``t0008`` of a single trial) of the table ``df`` and write it to ``out``.

    ``out`` receives ``weights.pt`` and ``manifest.json`` (the checkpoint:
    ``gcp_core.checkpoint.load_model``), ``model.pt2`` (``torch.export.load``), ``sample.npz`` (inputs and
    logits to test a deployment with), ``proof.json`` and ``MODEL_CARD.md``; with ``onnx`` also
    ``model.onnx``, with ``int8`` that and ``model.int8.onnx``, with ``openvino`` that, ``model.xml`` and ``model.bin``.
    An earlier export at ``out`` is replaced; any other folder is refused. ``data_path``: where the
    data is on this machine, if it has moved since the trial.

    Raises:
        VerificationError: a hash, a count, an accuracy or an output differs; nothing is written.
        ConfigError: no such model, its files are gone, ``out`` holds something else, or a package is missing.
    """
    from analysis.runs.models import row_of

    row = row_of(df, model)
    out = Path(out)
    _check_target(out)
    _check_packages(onnx, int8, openvino)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        manifest = collect(df, row, work)
        where = {"data_path": data_path, "trained_on": _trained_on(row)}
        proof = run_proof(work, onnx=onnx, int8=int8, openvino=openvino, **where)
        checks = compare(row, proof)
        failed = [c for c in checks if not c.passed]
        if failed:
            said = "; ".join(
                f"{c.name}: logged {text.digits(c.logged)}, now {text.digits(c.measured)}{c.note}"
                for c in failed
            )
            raise VerificationError(
                f"the model is not what was logged: {said}", model, "nothing was exported"
            )
        (work / CARD).write_text(model_card(row, manifest, proof, checks, reason), encoding="utf-8")
        _move(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(out, model, checks, proof, str(manifest["sha256"]))


def _trained_on(row: pd.Series) -> str | None:
    """The name of the processor or GPU that the model was trained on; None where it was not recorded."""
    name = row.get("device")
    return name if isinstance(name, str) and name else None


def _check_target(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / CARD).is_file() or not any(out.iterdir()))):
        raise ConfigError("exists and is not an earlier export", str(out), "choose another --out")


def _check_packages(onnx: bool, int8: bool, openvino: bool) -> None:
    """Before the model is rebuilt and evaluated, which takes minutes."""
    extras = ["onnx"] * (onnx or int8 or openvino) + ["openvino"] * openvino
    package, hint = missing(*extras)
    if package:
        asked = next(name for name, on in (("openvino", openvino), ("int8", int8), ("onnx", onnx)) if on)
        raise ConfigError(f"needs {package}", f"--{asked}", hint)


def run_proof(
    work: Path,
    *,
    onnx: bool = False,
    int8: bool = False,
    openvino: bool = False,
    data_path: str | None = None,
    trained_on: str | None = None,
) -> dict[str, Any]:
    """Run :mod:`analysis.ship.prove` on the model in ``work`` in a fresh interpreter; its measurements."""
    asked = {"--int8": int8, "--openvino": openvino, "--onnx": onnx}
    words = [str(work), str(work), *(option for option, on in asked.items() if on)]
    words += ["--data-path", data_path] if data_path else []
    words += ["--processor", trained_on] if trained_on else []
    done = in_fresh_process(words)
    file = work / PROOF
    if not file.is_file():
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise VerificationError(f"the fresh process failed (exit {done.returncode}): {last[0]}", "prove")
    proof = json.loads(file.read_text())
    if "error" in proof:
        raise VerificationError(proof["error"], proof["where"], proof["hint"] or "nothing was exported")
    return proof


def in_fresh_process(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run :mod:`analysis.ship.prove` with these arguments in its own interpreter."""
    # -m puts the working directory on the path, so models named package.module:factory are found as in the
    # sweep.
    command = [sys.executable, "-m", "analysis.ship.prove", *words]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=dict(os.environ), check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise VerificationError(f"the fresh process did not end within {_TIMEOUT_S} s", "prove") from exc


def compare(row: pd.Series, proof: dict[str, Any]) -> tuple[Check, ...]:
    """Compare what was logged with what was measured.

    Accuracy must be equal on the same device type, thread count and torch version, and the same kind of processor where
    that is known. Elsewhere rounding may flip images whose two best logits are closer than 1e-4, and no others.
    """
    checks = [_equal(name, row, proof[name]) for name in ("macs", "params")]
    tested = "test_accuracy" in row and row["test_accuracy"] == row["test_accuracy"]
    for split in ("val", "test") if tested else ("val",):
        slack = 0.0 if proof["same_place"] else _slack(proof, split)
        checks.append(_accuracy(f"{split}_accuracy", row, proof, slack))
    difference = float(proof["export_difference"])
    checks.append(Check("exported outputs", 0.0, difference, difference <= EXPORT_TOLERANCE, " (relative)"))
    for name, title in (("onnx", "ONNX"), ("openvino", "OpenVINO")):
        if proof.get(f"{name}_difference") is None:
            continue
        difference = float(proof[f"{name}_difference"])
        checks.append(
            Check(f"{title} outputs", 0.0, difference, difference <= EXPORT_TOLERANCE, " (relative)")
        )
        # Another runtime rounds differently even on the same machine.
        slack = _slack(proof, "val")
        by_runtime = {**proof, "val_accuracy": proof[f"{name}_val_accuracy"]}
        checks.append(
            replace(_accuracy("val_accuracy", row, by_runtime, slack), name=f"{title} val_accuracy")
        )
    return tuple(checks)


def _slack(proof: dict[str, Any], split: str) -> float:
    """By how many points an accuracy may differ: the share of the split's images that are close calls."""
    return 100.0 * float(proof[f"{split}_close_calls"]) / float(proof[f"{split}_images"])


def _equal(name: str, row: pd.Series, measured: float) -> Check:
    return Check(name, float(row[name]), float(measured), float(row[name]) == float(measured))


def _accuracy(name: str, row: pd.Series, proof: dict[str, Any], slack: float) -> Check:
    logged, measured = float(row[name]), float(proof[name])
    note = "" if proof["same_place"] else f" (measured on {proof['place']}; {slack:.3g} points allowed)"
    # 1e-9: accuracies are quotients of whole numbers, stored as decimal text by some stores.
    return Check(name, logged, measured, abs(logged - measured) <= slack + 1e-9, note)


def _move(work: Path, out: Path) -> None:
    """Put the finished folder in place by renames; an earlier export goes only when the new one is there."""
    os.chmod(work, 0o755)
    if not out.exists():
        work.rename(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-old-"))
    out.rename(old / "export")
    work.rename(out)
    shutil.rmtree(old, ignore_errors=True)
