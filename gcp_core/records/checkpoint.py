"""What a trial keeps on disk: weights-only files with a JSON manifest, whole or absent, never unpickled.

Two kinds of folder share one form (``<file>.pt`` + ``manifest.json``):

* an epoch folder holds model and optimiser state, to resume exactly;
* a ``model`` folder holds the final weights, the plans that lead to their shapes, the merged configuration and the
  measured values: all that is needed to rebuild the small dense model.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.errors import CheckpointError, GcpError
from gcp_core.models import build_model
from gcp_core.plan import Plan
from gcp_core.pruning.surgery import apply_plan
from gcp_core.records.durable import flush
from gcp_core.schema import by_number

log = logging.getLogger(__name__)

#: Raised when the meaning of a manifest changes.
FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.pt"
STATE = "state.pt"
_EPOCH = "epoch_"
#: So often a folder is tried to be written while other processes write or clear it.
_TRIES = 20


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values of a state dict, in name order (hex)."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class Written:
    """A weights file that this process has written: which file it is, and its SHA-256 (hex)."""

    file: Path
    inode: int
    sha256: str

    def link(self, target: Path) -> bool:
        """Give the file a second name; False where it is another one by now, or the disk cannot do that."""
        try:
            os.link(self.file, target)
        except OSError:
            return False
        if target.stat().st_ino == self.inode:
            return True
        target.unlink()
        return False


def write_folder(
    folder: Path,
    file: str,
    state: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    durable: bool = True,
    equal: Written | None = None,
) -> Written:
    """Write ``folder`` with ``file`` (torch, weights-only) and the manifest; replaces an existing folder.

    The folder appears by one rename, and an old one goes by one, so a killed process leaves the old one, the new one or
    none. ``durable`` waits for the disk, so that a power cut cannot leave a damaged one either (readers would notice, by
    its SHA-256).

    Other processes may write the same folder, or clear the one above it, at the same time: the last one wins.

    Args:
        equal: a file with this very ``state``, which then gets a second name where it can, so that it is written and
            hashed once.
    """
    for left in reversed(range(_TRIES)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(folder)
        try:
            temporary.mkdir()  # tempfile's would be private, also where colleagues share the folder
            if equal is not None and equal.link(temporary / file):
                sha256 = equal.sha256
            else:
                _save(state, temporary / file)
                sha256 = file_digest(temporary / file)
            written = Written(folder / file, (temporary / file).stat().st_ino, sha256)
            full = {"format": FORMAT, **manifest, "file": file, "sha256": sha256}
            (temporary / MANIFEST).write_text(json.dumps(full, indent=1))
            for path in temporary.iterdir() if durable else ():
                flush(path)
            _replace(temporary, folder)
            return written
        except FileNotFoundError:  # what was written so far has been cleared away
            if not left:
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise AssertionError("unreachable")


def _beside(folder: Path) -> Path:
    """A name that nobody else uses; :func:`remove_leftovers` knows it."""
    return folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")


def _replace(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``, also if another process puts its own one there at this moment."""
    for left in reversed(range(_TRIES)):
        # Emptying it first would take longer, and two that do so trip over each other's files.
        aside = _beside(folder)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(aside)
        try:
            new.rename(folder)
            return
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not left:
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Remove what a killed process was writing below ``root``; only where nobody else writes."""
    for leftover in root.glob(".*-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _save(state: Mapping[str, Any], path: Path) -> None:
    """torch.save; where torch only says that the file came out too short, the reason: an OSError of a full disk."""
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as exc:
        if isinstance(exc.__context__, OSError):
            raise exc.__context__ from None
        raise


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest beside a weights file (``folder`` may also be the file itself).

    Raises:
        CheckpointError: there is none, it is not JSON, or it has another format.
    """
    path = _folder(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as exc:
        raise CheckpointError("there is no manifest", str(path)) from exc
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"the manifest cannot be read: {exc}", str(path)) from exc
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise CheckpointError(f"format {found!r} is not {FORMAT}", str(path), "written by another version?")
    return manifest


def read_state(folder: str | Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of ``folder``, checked against the manifest's SHA-256 before they are read.

    Raises:
        CheckpointError: the file is missing, truncated or changed, or holds anything but plain data.
    """
    path = _folder(folder) / str(manifest.get("file", WEIGHTS))
    if path.parent != _folder(folder):
        raise CheckpointError(
            f"the manifest names a file outside its folder: {manifest['file']!r}", str(folder)
        )
    if not path.is_file():
        raise CheckpointError("the file is missing", str(path))
    if file_digest(path) != manifest.get("sha256"):
        raise CheckpointError("the file is truncated or was changed (SHA-256 differs)", str(path))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as exc:
        raise CheckpointError(f"cannot be read as plain tensors: {exc}", str(path)) from exc


def save_model(folder: Path, model: nn.Module, manifest: Mapping[str, Any]) -> None:
    """Write the final ``model`` folder; ``manifest`` needs what :func:`load_model` reads."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_folder(folder, WEIGHTS, state, {**manifest, "weights_sha256": weights_digest(state)})


def load_model(path: str | Path) -> nn.Module:
    """The small dense model of a ``model`` folder (or of the weights file in it), on the CPU, in eval mode.

    The factory's full-size model is built, the plans are replayed on it, then the weights are loaded; nothing is
    unpickled.

    Raises:
        CheckpointError: a file is missing, damaged, of another version, or does not fit the architecture.
    """
    folder = _folder(path)
    manifest = read_manifest(folder)
    state = read_state(folder, manifest)
    model = rebuild(manifest, str(folder))
    load_weights(model, state, str(folder))
    return model.eval()


def rebuild(manifest: Mapping[str, Any], where: str) -> nn.Module:
    """The architecture a manifest describes, with untrained weights."""
    try:
        described = manifest["config"]["model"]
        with torch.random.fork_rng(devices=[]):
            model = build_model(
                described["name"], manifest["num_classes"], manifest["in_channels"], described["width"]
            )
        for plan in plans_from(manifest):
            apply_plan(model, plan)
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"the manifest is incomplete: {exc!r}", where) from exc
    except CheckpointError:
        raise
    except GcpError as exc:
        raise CheckpointError(f"the model cannot be rebuilt: {exc}", where) from exc
    return model


def check_fit(model: nn.Module, state: object, where: str) -> None:
    """Raise CheckpointError unless ``state`` has the names and shapes of ``model``; nothing is changed."""
    problem, hint, own = "", "", model.state_dict()
    if not isinstance(state, Mapping):
        problem = f"a {type(state).__name__} is no state dict"
    elif set(state) != set(own):
        different = sorted(set(state) ^ set(own), key=str)[0]
        problem = f"{'missing' if different in own else 'unexpected'} key {different!r}"
        if state and own and not set(state) & set(own):
            first, other = next(iter(state)), next(iter(own))
            hint = f"no key is the same: the weights begin with {first!r}, the model with {other!r}"
    else:
        for name, tensor in state.items():
            found, wanted = getattr(tensor, "shape", ()), own[name].shape
            if found != wanted:
                problem = problem or f"size mismatch for {name}: {tuple(found)}, not {tuple(wanted)}"
    if problem:
        raise CheckpointError(f"the weights do not fit the architecture: {problem}", where, hint)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict strictly, all of it or nothing; a mismatch is one clear error."""
    check_fit(model, state, where)
    model.load_state_dict(state)


def plans_from(manifest: Mapping[str, Any]) -> list[Plan]:
    """The plans of a manifest, oldest first."""
    return [Plan.from_json(json.dumps(plan)) for plan in manifest["plans"]]


def plans_to_json(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Inverse of :func:`plans_from`."""
    return [json.loads(plan.to_json()) for plan in plans]


class EpochCheckpoints:
    """The last two epoch folders below ``root``: the newest to resume from, the one before as a fallback.

    Args:
        root: created on the first save.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(
        self,
        epoch: int,
        state: Mapping[str, Any],
        manifest: Mapping[str, Any],
        equal: Written | None = None,
    ) -> Path:
        """Write one epoch, then drop those that are no longer kept. ``equal`` is :func:`write_folder`'s."""
        folder = self.root / f"{_EPOCH}{epoch:04d}"
        write_folder(folder, STATE, state, {**manifest, "epoch": epoch}, durable=False, equal=equal)
        # Later ones were passed over as damaged: they must not push this one out, and will be written again.
        for old in self._until(epoch)[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def newest(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Manifest and state of the newest epoch that is whole; damaged ones are passed over with a warning."""
        for folder in reversed(self._folders()):
            try:
                manifest = read_manifest(folder)
                return manifest, read_state(folder, manifest)
            except CheckpointError as exc:
                log.warning("checkpoint passed over: %s", exc)
        return None

    def keep_newest(self, epoch: int) -> None:
        """Remove all but the newest up to ``epoch``, where the trial rests, or may be taken up again."""
        kept = self._until(epoch)[-1:]
        for other in (folder for folder in self._folders() if folder not in kept):
            shutil.rmtree(other, ignore_errors=True)

    def clear(self) -> None:
        """Remove all of them (the trial is done)."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return by_number(self.root.glob(f"{_EPOCH}*"), _EPOCH)

    def _until(self, epoch: int) -> list[Path]:
        return [folder for folder in self._folders() if int(folder.name.removeprefix(_EPOCH)) <= epoch]


def _folder(path: str | Path) -> Path:
    path = Path(path)
    return path.parent if path.is_file() else path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes (hex)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
