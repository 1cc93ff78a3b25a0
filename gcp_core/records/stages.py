"""Training that several trials have in common, done once.

Until its first event a trial trains exactly as its unpruned baseline does; after it, exactly as every trial that removed
the same channels at the same epochs. A *stage* is the state after some epoch, before that epoch's event, addressed by
everything that decides about it. A trial that finds a stage goes on from there, bit by bit as if it had trained itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gcp_core.config import NO_REPAIR, TrialConfig, digest
from gcp_core.errors import CheckpointError
from gcp_core.penalties import PENALTIES
from gcp_core.plan import Plan
from gcp_core.records.checkpoint import STATE, Written, file_digest, read_manifest, read_state, write_folder
from gcp_core.records.own_code import own_code
from gcp_core.repairs import REPAIRS
from gcp_core.rewrites import REWRITES
from gcp_core.schedule.paces import PACES

log = logging.getLogger(__name__)

#: Default bound of a store, in bytes.
MAX_BYTES = 4 * 1024**3
#: No more of the free disk than this is taken for stages, unless somebody asks for more; but this much always.
FREE_SHARE, _LEAST_BYTES = 0.25, 64 * 1024**2
#: A store that is full is emptied to this share of its bound, so that not every further stage has to make room.
ROOM = 0.8
#: A stage that is being written changes more often than every so many seconds, or its writer was killed.
ABANDONED_S = 3600.0
#: Whoever has written this share of the bound looks how full the store is; nobody looks for every stage.
_LOOK = 0.02


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Names the source of this package: other code may train differently."""
    sha = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        sha.update(str(path.relative_to(root)).encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def initial_digest(config: TrialConfig) -> str:
    """SHA-256 of the file that a trial's weights begin with (hex); empty where there is none."""
    path = os.path.expanduser(config.model.weights or "")
    if not os.path.isfile(path):
        return ""
    stat = os.stat(path)
    return _digest_of(os.path.realpath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest_of(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file as it is then: a process that trains many trials reads their initial weights for it once."""
    return file_digest(Path(path))


def trunk_key(config: TrialConfig, data: str, device: torch.device) -> str:
    """Names everything but the pruning that decides about a trial's weights; ``data`` is the splits' ``key``."""
    # Another kind of processor may add in another order.
    kind = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    values = config.dense_phase().to_dict()
    if config.model.weights is not None:
        # Not where they are: another file may be put there, and a copy elsewhere is the same.
        values["model"]["weights"] = initial_digest(config)
    train = config.train
    own = own_code(config.model.name) + own_code(train.penalty, PENALTIES) + own_code(train.rewrite, REWRITES)
    return digest([values, data, kind, config.threads, torch.__version__, code_digest(), *own])


def course_after_events(config: TrialConfig) -> list[Any]:
    """What decides about the learning rate once a path has had an event; nothing more for a single trial."""
    if not config.is_path:
        return []
    train, prune = config.train, config.pruning
    return [prune.start, prune.interval, train.restart, train.pace, *own_code(train.pace, PACES)]


def repair_of(config: TrialConfig) -> list[Any]:
    """What decides about the weights that an event leaves besides what it cuts; nothing where it only cuts.

    All that a repair can see: the units as the residual mode and ``exclude`` make them, and the images it looks at.
    """
    prune = config.prune
    if prune is None or prune.repair == NO_REPAIR:
        return []
    seen = [prune.residual, list(prune.exclude), prune.scoring_images]
    return [prune.repair, prune.repair_options, *seen, *own_code(prune.repair, REPAIRS)]


def stage_key(
    trunk: str,
    plans: Sequence[Plan],
    epoch: int,
    course: Sequence[Any] = (),
    repair: Sequence[Any] = (),
) -> str:
    """Names the state after training epoch ``epoch`` (before its event) of a trial with these events behind it.

    ``course`` is :func:`course_after_events`: equal cuts at another rate are other weights; ``repair`` is
    :func:`repair_of`: so are equal cuts after another repair.
    """
    # What was cut out of which tensor, and when; how the plan was found does not matter. Groups and units alone do not
    # say it: the same units are other cuts in another residual mode.
    by = [list(repair)] if repair else []
    events = [[plan.meta.get("epoch"), plan.effect(), *by] for plan in plans]
    return digest([trunk, events, epoch, *([list(course)] if events and course else [])])


def usual_bound(root: Path) -> int:
    """Bytes of stages to keep below ``root``: a quarter of what is free there, or :data:`MAX_BYTES` if that is less."""
    place = next((path for path in (root, *root.absolute().parents) if path.exists()), root)
    return max(_LEAST_BYTES, min(MAX_BYTES, int(FREE_SHARE * shutil.disk_usage(place).free)))


class StageStore:
    """Stages in a folder that all trials of a sweep can reach.

    Args:
        root: created on the first save.
        max_bytes: when the folder grows past this, stages that were not used for longest go.
    """

    _last: tuple[str, Written] | None = None

    def __init__(self, root: str | Path, max_bytes: int = MAX_BYTES) -> None:
        self.root, self.max_bytes = Path(root), max_bytes
        self._unseen = math.inf  # bytes that were written since this process looked; the first save looks

    def has(self, key: str) -> bool:
        """Whether the stage is there (it may still turn out to be damaged)."""
        return (self.root / key).is_dir()

    def load(self, key: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Manifest and tensors, or None if the stage is missing or damaged (a damaged one is removed)."""
        folder = self.root / key
        if not folder.is_dir():
            return None
        # Another process may evict it at any moment: whatever happens to a stage, the trial can train instead.
        try:
            manifest = read_manifest(folder)
            state = read_state(folder, manifest)
        except (CheckpointError, OSError) as exc:
            log.warning("stage passed over: %s", exc)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)  # it was used
        return manifest, state

    def save(self, key: str, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Keep a stage; one that is there already stays. A full disk costs the stage, not the trial."""
        if self.has(key):
            return
        try:
            self._last = key, write_folder(self.root / key, STATE, state, manifest, durable=False)
            self._unseen += (self.root / key / STATE).stat().st_size
            if self._unseen > _LOOK * self.max_bytes:
                self._evict(keep=key)
                self._unseen = 0.0
        except OSError as exc:
            log.warning("stage not kept: %s", exc)

    def written(self, key: str) -> Written | None:
        """The file of a stage, if that is what this process has saved last."""
        return self._last[1] if self._last is not None and self._last[0] == key else None

    def _evict(self, keep: str) -> None:
        self._remove_abandoned(keep)
        stages = []
        # What is being written has a name with a dot in front.
        for folder in (path for path in self.root.iterdir() if not path.name.startswith(".")):
            try:
                size = sum(file.stat().st_size for file in folder.iterdir())
                stages.append((folder.name != keep, folder.stat().st_mtime, size, folder))
            except OSError:
                continue  # evicted by another process meanwhile
        total = sum(size for _, _, size, _ in stages)
        if total <= self.max_bytes:
            return
        for may_go, _, size, folder in sorted(stages, key=lambda s: (not s[0], s[1])):
            if total <= ROOM * self.max_bytes or not may_go:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size

    def _remove_abandoned(self, keep: str) -> None:
        """Remove what killed processes were writing: nothing in it has changed for long, by the folder's own clock."""
        now = (self.root / keep).stat().st_mtime
        for folder in (path for path in self.root.iterdir() if path.name.startswith(".")):
            with contextlib.suppress(OSError):  # its writer is there and has put it in place meanwhile
                if now - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
