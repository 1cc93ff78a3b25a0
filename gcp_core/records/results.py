"""What a trial reports and how it ends; ``result.json``, whose presence says that the trial is over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcp_core.config import TrialConfig
from gcp_core.errors import CheckpointError, PlanError
from gcp_core.plan import Plan
from gcp_core.records.checkpoint import plans_from, plans_to_json, read_manifest
from gcp_core.records.durable import flush
from gcp_core.records.stages import initial_digest
from gcp_core.schema import SNAPSHOTS, by_number, snapshot_place

#: Why a path ends: its target is met, the cap on its epochs leaves no whole cycle, the floors leave nothing to take, or
#: the user's report said so; or why it rests.
ENDS = ("target", "cap", "floors", "stopped", "paused")


@dataclass(frozen=True)
class EpochReport:
    """What is known after one epoch.

    Attributes:
        epoch: 1 = the first.
        metrics: by the keys of :data:`gcp_core.schema.PER_EPOCH`.
        plan: what an event at the end of this epoch removed.
    """

    epoch: int
    metrics: Mapping[str, float]
    plan: Plan | None = None


@dataclass(frozen=True)
class Snapshot:
    """The finished model at the end of a path's dense phase (number 0) or of one of its cycles.

    Attributes:
        level: its number in the path: how many events lie behind it.
        epoch: the epoch that it ends.
        finals: by the short names of :data:`gcp_core.schema.FINALS`, as of a trial that ends here.
        folder: its model folder, None if nothing is kept.
        weights_sha256: names its weights bit by bit.
        polish: epochs that it was polished for, which ``epoch`` and ``finals`` count; 0 = the path's own.
    """

    level: int
    epoch: int
    finals: Mapping[str, float]
    folder: Path | None
    weights_sha256: str
    polish: int = 0


@dataclass(frozen=True)
class TrialResult:
    """The end of a trial.

    Attributes:
        status: ``complete``, ``stopped`` (``report`` asked for it), ``diverged``, or of a path ``paused`` (``snapshot``
            asked for it; no ``result.json`` is written, because it is not over).
        finals: by the short names of :data:`gcp_core.schema.FINALS`; no ``accuracy_drop`` (needs the baseline), and
            no ``test_accuracy`` unless complete.
        plans: what was removed, in order.
        history: one report per epoch; plans only on the epochs trained by this call.
        folder: the ``model`` folder, if a ``checkpoint_dir`` was given and the trial did not diverge.
        weights_sha256: names the final weights bit by bit.
        trained_epochs: epochs trained by this call; the others were resumed or taken over from other trials.
        snapshots: of a path, in their order; ``finals``, ``folder`` and ``weights_sha256`` are then the last one's.
        ended: of a path, why it ended: one of :data:`ENDS`.
    """

    status: str
    finals: Mapping[str, float]
    plans: tuple[Plan, ...]
    history: tuple[EpochReport, ...]
    error: str = ""
    folder: Path | None = None
    weights_sha256: str = ""
    trained_epochs: int = 0
    snapshots: tuple[Snapshot, ...] = ()
    ended: str = ""


def rows_of(history: Iterable[EpochReport]) -> list[dict[str, Any]]:
    """JSON-ready reports, without their plans; inverse of :func:`history_from`."""
    return [{"epoch": r.epoch, "metrics": dict(r.metrics)} for r in history]


def history_from(content: Mapping[str, Any]) -> list[EpochReport]:
    """The reports in ``content["history"]``."""
    return [EpochReport(r["epoch"], r["metrics"]) for r in content["history"]]


def check_same_trial(manifest: Mapping[str, Any], config: TrialConfig, where: str) -> None:
    """Raise CheckpointError if a record belongs to another configuration or seed."""
    if manifest.get("config_key") != config.key():
        raise CheckpointError(
            "the folder holds a trial of another configuration", where, "use another checkpoint_dir"
        )


def started_from(initial: str) -> dict[str, str]:
    """What a record says of the file that the weights began with: its SHA-256; nothing where there was none."""
    return {"initial_sha256": initial} if initial else {}


def start_of(record: Mapping[str, Any]) -> str:
    """Inverse of :func:`started_from`."""
    return str(record.get("initial_sha256", ""))


def check_same_start(record: Mapping[str, Any], initial: str, where: str) -> None:
    """Raise CheckpointError if a record is of a trial that began with another file under the same path.

    A key names the path alone, so that it is the same where the file is not. Nothing is known where ``initial`` is empty,
    nor of older records.
    """
    if initial and record.get("initial_sha256", initial) != initial:
        raise CheckpointError(
            "model.weights is another file now than the one that this trial began with",
            where,
            "use another checkpoint_dir, or put the file back",
        )


def write_result(folder: Path, config: TrialConfig, result: TrialResult, initial: str = "") -> None:
    """``result.json``, written last and by one rename: its presence says that the trial is over.

    Args:
        initial: SHA-256 of the file that the weights began with; empty = there was none.
    """
    content = {
        "config_key": config.key(),
        **started_from(initial),
        "status": result.status,
        "error": result.error,
        "finals": dict(result.finals),
        "plans": plans_to_json(result.plans),
        "history": rows_of(result.history),
        "trained_epochs": result.trained_epochs,
        "weights_sha256": result.weights_sha256,
        "model": result.folder is not None,
        "ended": result.ended,
    }
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".result.json"
    temporary.write_text(json.dumps(content, indent=1))
    flush(temporary)  # an empty one after a power cut would fail the trial
    temporary.rename(folder / "result.json")


def read_result(folder: Path, config: TrialConfig) -> TrialResult | None:
    """The result of a finished trial, None if it is not finished.

    Raises:
        CheckpointError: it is another configuration's, or of other initial weights, or was damaged.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        check_same_trial(content, config, str(folder))
        check_same_start(content, initial_digest(config), str(folder))
        history = tuple(history_from(content))
        # Later ones are of a path that went on since and was killed: it has not written what it came to.
        snapshots = tuple(s for s in read_snapshots(folder) if s.epoch <= len(history))
        return TrialResult(
            content["status"],
            content["finals"],
            tuple(plans_from(content)),
            history,
            content["error"],
            _model_folder(folder, snapshots) if content["model"] else None,
            content["weights_sha256"],
            content["trained_epochs"],
            snapshots,
            content.get("ended", ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PlanError) as exc:
        hint = "delete it to train again"
        raise CheckpointError(f"the result cannot be read: {exc!r}", str(path), hint) from exc


def snapshot_folder(folder: Path, level: int, polish: int = 0) -> Path:
    """Where a path keeps its snapshot of that number, or that snapshot polished."""
    return folder / snapshot_place(level, polish)


def read_snapshots(folder: Path) -> tuple[Snapshot, ...]:
    """The snapshots that a path has left in its folder, in their order; also those whose weights were removed since.

    Those that were polished (``03+30``) are models of their own and no part of the path.

    Raises:
        CheckpointError: a manifest is damaged.
    """
    found = []
    for place in by_number((folder / SNAPSHOTS).glob("[0-9]*")):
        manifest = read_manifest(place)
        try:
            about, finals = manifest["snapshot"], manifest["finals"]
            digest = manifest["weights_sha256"]
            found.append(Snapshot(int(about["level"]), int(about["epoch"]), finals, place, digest))
        except (KeyError, TypeError, ValueError) as exc:
            raise CheckpointError(f"the manifest is incomplete: {exc!r}", str(place)) from exc
    return tuple(found)


def _model_folder(folder: Path, snapshots: tuple[Snapshot, ...]) -> Path | None:
    return snapshots[-1].folder if snapshots else folder / "model"
