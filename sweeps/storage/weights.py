"""Weights of snapshots that go while the sweep runs, and come back with a replay.

A note beside the manifest says that and why they went: it is written first, so that a driver that is killed in between
does the rest later. Weights that the user has put back are left alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path

from gcp_core import schema
from gcp_core.schema import model_id, snapshot_artifact
from sweeps.records.disk import write_whole
from sweeps.records.layout import DROPPED_FILE, TRIALS, trial_path
from sweeps.storage.exchange import Exchange


def weights_of(trial_id: str, level: int) -> str:
    """A snapshot's weights, relative to the sweep's folder."""
    return f"{trial_path(trial_id)}/{snapshot_artifact(level, schema.ARTIFACT_WEIGHTS)}"


def there(exchange: Exchange, models: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the (trial id, level) whose weights are here or in the store, but for those that were put back."""
    remote = exchange.sizes(TRIALS)
    found = {m for m in models if weights_of(*m) in remote or (exchange.root / weights_of(*m)).exists()}
    return {model for model in found if (_note(exchange.root, *model) or {}).get("dropped", True)}


def drop(exchange: Exchange, trial_id: str, level: int, why: str) -> None:
    """Remove a snapshot's weights, here and in the store; its manifest stays, and a note says why.

    Raises OSError where the store is away: the note is there, and the removal can be tried again.
    """
    path = weights_of(trial_id, level)
    note = (exchange.root / path).with_name(DROPPED_FILE)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps({"dropped": True, "why": why}) + "\n")
    (exchange.root / path).unlink(missing_ok=True)
    exchange.send(str(Path(path).with_name(DROPPED_FILE)))
    exchange.remove(path)


def why_dropped(folder: Path, trial_id: str, level: int) -> str:
    """Why a snapshot's weights went while the sweep ran; "" if they did not, or were put back since."""
    note = _note(folder, trial_id, level) or {}
    return str(note.get("why", "")) if note.get("dropped") else ""


def put_back(exchange: Exchange, path: str, weights: Path) -> None:
    """Give a model its weights again, at ``path`` in the sweep's folder: ``weights`` is a file with the same tensors.

    The manifest then vouches for that file. The next driver leaves them alone.
    """
    target = exchange.root / path
    manifest = target.with_name(Path(schema.ARTIFACT_MANIFEST).name)
    about = json.loads(manifest.read_text(encoding="utf-8"))
    write_whole(target.with_name(DROPPED_FILE), json.dumps({"dropped": False}) + "\n")
    partial = target.with_name(f".{target.name}")
    shutil.copyfile(weights, partial)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    if about.get("sha256") != digest:  # another version of torch packs the same tensors otherwise
        write_whole(manifest, json.dumps({**about, "sha256": digest}, indent=1))
    partial.replace(target)
    exchange.send(str(target.parent.relative_to(exchange.root)))


def how_to_have_them(trial_id: str, level: int) -> str:
    """The command that brings them back."""
    return f"gcp-sweep replay SWEEP {model_id(trial_id, level)}"


def _note(folder: Path, trial_id: str, level: int) -> dict[str, object] | None:
    try:
        file = (folder / weights_of(trial_id, level)).with_name(DROPPED_FILE)
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
