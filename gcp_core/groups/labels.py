"""Channel labels: which atoms an activation's elements belong to, and which atoms must go together.

An atom is one output channel of one producing layer. Atom 0 stands for everything that is never removed (the image,
constants). Labels travel beside activations; joins merge atoms (union-find) and anything not understood freezes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


class Atoms:
    """Union-find over atoms; a class of atoms may be frozen, with the first reason given."""

    def __init__(self) -> None:
        self._parent = [0]
        self._reason: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, number: int) -> np.ndarray:
        """``number`` fresh atoms, ``(number,)`` int64."""
        first = len(self._parent)
        self._parent.extend(range(first, first + number))
        return np.arange(first, first + number)

    def find(self, atom: int) -> int:
        """The atom that stands for its class."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def merge(self, left: np.ndarray, right: np.ndarray, reason: str) -> None:
        """Tie atoms elementwise; an atom tied to atom 0 is frozen for ``reason``."""
        pairs = {(a, b) for a, b in zip(left.ravel().tolist(), right.ravel().tolist(), strict=True) if a != b}
        for a, b in sorted(pairs):
            if a == 0 or b == 0:
                self.freeze(np.array([a or b]), reason)
                continue
            a, b = self.find(a), self.find(b)
            if a == b:
                continue
            low, high = min(a, b), max(a, b)
            self._parent[high] = low
            why = self._reason.pop(high, None)
            if why is not None:
                self._reason.setdefault(low, why)

    def freeze(self, atoms: np.ndarray, reason: str) -> None:
        """Never remove these; the first reason stays."""
        for atom in np.unique(atoms).tolist():
            if atom:
                self._reason.setdefault(self.find(atom), reason)

    def classes(self, atoms: np.ndarray) -> set[int]:
        """The atoms that stand for the classes of these."""
        return {self.find(atom) for atom in np.unique(atoms).tolist()}

    def reason(self, atom: int) -> str | None:
        """Why ``atom`` is frozen, or None if it is not."""
        return self._reason.get(self.find(atom))


@dataclass(frozen=True)
class Label:
    """What is known about one activation.

    Attributes:
        ids: atoms, int64, of the activation's rank; size 1 along dimensions where the atoms do not vary.
        zero: whether an element is exactly zero when its unit is gated.
        pending: layers whose raw output (no norm since) reaches here.
        sources: the layers that produced the signal last; ``depth``: producing layers on the longest path.
        norm: the batch norm this is the (elementwise changed) output of, if any.
        scattered: the output of a batch norm that already writes into a wider stream.
    """

    ids: Tensor
    zero: bool = True
    pending: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    depth: int = 0
    norm: str | None = None
    scattered: bool = False

    def with_ids(self, ids: Tensor) -> Label:
        """The same with other atoms, squeezed to size 1 where they do not vary."""
        return replace(self, ids=compressed(ids), norm=None)

    def varying(self) -> list[int]:
        """Dimensions along which the atoms vary."""
        return [d for d, size in enumerate(self.ids.shape) if size > 1]

    def atoms(self) -> np.ndarray:
        """All atoms in it, flat."""
        return self.ids.reshape(-1).numpy()


def compressed(ids: Tensor) -> Tensor:
    """Cut to size 1 every dimension along which nothing varies."""
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1:
            first = ids.narrow(dim, 0, 1)
            if ids.stride(dim) == 0 or torch.equal(first.expand_as(ids), ids):
                ids = first
    return ids


@dataclass
class Producer:
    """A conv or linear layer whose output channels are atoms. ``dim``: channel dimension of its output."""

    layer: str
    atoms: np.ndarray
    dim: int
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.atoms)


@dataclass(frozen=True)
class MacTerm:
    """MACs of one layer = ``factor`` x living ``outs`` x living ``ins`` (arrays of atoms, later of units)."""

    layer: str
    factor: int
    outs: np.ndarray
    ins: np.ndarray
