"""A power cut, played: what nobody waited for did not reach the disk, but its name did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class PowerCut:
    """From now on it is noted which files the disk was waited for; see :meth:`strike`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._safe: set[tuple[int, int]] = set()
        real = os.fsync

        def fsync(descriptor: int) -> None:
            real(descriptor)
            self._safe.add(_version(os.fstat(descriptor)))

        monkeypatch.setattr(os, "fsync", fsync)

    def strike(self, folder: Path) -> None:
        """Empty all files below ``folder`` that were written and not waited for since."""
        for path in folder.rglob("*"):
            if path.is_file() and _version(path.stat()) not in self._safe:
                path.unlink()  # not emptied in place: somebody may have it mapped
                path.touch()


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_ino, stat.st_size
