"""One forward under a function mode that carries labels beside activations and writes down what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcp_core.errors import ModelError
from gcp_core.groups.counted import Counted, counted_in, unfollowed
from gcp_core.groups.labels import Atoms, Label, MacTerm, Producer
from gcp_core.models.eager import EagerMode

_LABEL = "_gcp_label"
_SOURCES = "_gcp_sources"
_READ = "_gcp_read"

#: Why nothing of a shared layer goes.
AGAIN = "a module that is called more than once reads or makes them"

Handler = Callable[["Tracer", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Tracer(TorchFunctionMode):
    """Records producers, the axes of tensors that follow atoms, gates and MACs; see :mod:`gcp_core.groups.labels`.

    One tracer may watch several forwards of one model (eval, then training): what they say is merged.

    Attributes:
        residual: ``coupled``, ``scatter`` or ``inner``: what a residual sum does.
        axes: (tensor name, dimension) -> atom of each index.
        attributes: (module, attribute) -> (atoms, channels per step of the attribute).
        norms: batch norm -> atoms it passes; ``raw``: layers whose output reaches a consumer without any norm.
        branch, skip, gate: layers that end a residual branch, feed a shortcut, or produce a multiplicative gate.
        scatter: batch norm -> atoms, where a branch ends in it; ``norm_uses``: norms whose output has other readers.
        contractions: operations seen that multiply matrices outside conv and linear layers.
    """

    def __init__(
        self, model: nn.Module, handlers: dict[str, Handler], default: Handler, residual: str
    ) -> None:
        super().__init__()
        self.atoms = Atoms()
        self.residual = residual
        self.producers: dict[str, Producer] = {}
        self.axes: dict[tuple[str, int], np.ndarray] = {}
        self.attributes: dict[tuple[str, str], tuple[np.ndarray, int]] = {}
        self.norms: dict[str, np.ndarray] = {}
        self.raw: set[str] = set()
        self.branch: set[str] = set()
        self.skip: set[str] = set()
        self.gate: set[str] = set()
        self.scatter: dict[str, np.ndarray] = {}
        self.norm_uses: set[str] = set()
        self.terms: list[MacTerm] = []
        self.contractions: set[str] = set()
        self.touched: set[str] = set()
        self._seen: set[str] = set()
        #: Sizes by which a registered tensor was viewed that has met no channels yet, by their identity.
        self._loose: dict[int, Counted] = {}
        #: What the handler that runs was given: it answers for what happens to these below it.
        self._handled: set[int] = set()
        self._handlers = handlers
        self._default = default
        self.modules = dict(model.named_modules())
        # A buffer that two modules hold has no name: a cut would leave the other one's as it is.
        held = Counter(id(b) for module in model.modules() for b in module._buffers.values())
        buffers = [(name, b) for name, b in model.named_buffers() if held[id(b)] == 1]
        registered = [*buffers, *model.named_parameters()]
        self._names = {id(t): n for n, t in registered}
        self._shapes = {name: tuple(t.shape) for name, t in registered}

    def watch(self, model: nn.Module, image: Tensor) -> None:
        """Run one forward; every channel that reaches the model's output is frozen.

        Raises:
            ModelError: no tensor is found in the output.
        """
        self._seen, self._loose = set(), {}
        with unfollowed() as values:
            with torch.no_grad(), _Below(self), self:
                output = model(image)
            for counted in values:
                self.freeze(counted, "their number is used as a value")
            for size in self._loose.values():
                self.freeze_counted(size, "view takes their number as a size of something else")
        found = tensors_in(output)
        if not found:
            hint = "return tensors, or lists, tuples, dicts or data classes of them"
            raise ModelError(
                f"it returns a {type(output).__name__}, in which no tensor is found", "model", hint
            )
        for tensor in found:
            label = self.label(tensor)
            if label is not None:
                self.freeze(label, "its channels are the model's output")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = self._handlers.get(operation_name(func), self._default)
        before, self._handled = self._handled, {id(tensor) for tensor in tensors_in([args, kwargs])}
        try:
            return handler(self, func, args, kwargs or {})
        finally:
            self._handled = before

    def below(self, values: Any) -> None:
        """An operation ran on tensors in ``values``: by whatever function was called, or by none that is seen."""
        for tensor in tensors_in(values):
            label = self.label(tensor)
            if label is not None and id(tensor) not in self._handled:
                self.consume(label)
                self.freeze(label, "an operation that is not seen reads it (is it scripted?)")

    def label(self, value: Any) -> Label | None:
        """The label that travels with ``value``, or None (constants, the image)."""
        return getattr(value, _LABEL, None) if isinstance(value, Tensor) else None

    def attach(self, tensor: Tensor, label: Label | None) -> Tensor:
        """Let ``label`` travel with ``tensor``."""
        if label is not None or self.label(tensor) is not None:
            setattr(tensor, _LABEL, label)
        return tensor

    def name(self, tensor: Any) -> str | None:
        """State-dict name of a registered parameter or buffer."""
        return self._names.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def sources(self, tensor: Any) -> tuple[str, ...]:
        """Registered tensors that ``tensor`` is, or was computed from element by element (see :meth:`derive`)."""
        name = self.name(tensor)
        return getattr(tensor, _SOURCES, ()) if name is None else (name,)

    def derive(self, result: Any, *parts: Tensor, sizes: Sequence[Counted] = ()) -> None:
        """``result`` was computed from ``parts`` element by element, in their order: it loses what they lose.

        Nothing is noted if a part is not made of registered tensors, or if its elements are repeated in the result.
        ``sizes`` were read from activations and gave it its shape: they have to lose as much (see :meth:`settle`).
        """
        names = tuple(dict.fromkeys(name for part in parts for name in self.sources(part)))
        new = isinstance(result, Tensor) and self.name(result) is None
        if not new or not all(self.sources(part) for part in parts):
            return
        if all(_axes(self._shapes[name], tuple(result.shape)) is not None for name in names):
            setattr(result, _SOURCES, names)
            read = (*sizes, *(size for part in parts for size in getattr(part, _READ, ())))
            if read:
                setattr(result, _READ, read)
                self._loose.update({id(size): size for size in sizes})

    def settle(self, tensor: Tensor) -> tuple[Counted, ...]:
        """Sizes that gave a derived tensor its shape, now that it meets channels that can be held against them."""
        read: tuple[Counted, ...] = getattr(tensor, _READ, ())
        for size in read:
            self._loose.pop(id(size), None)
        return read

    def source_axes(self, tensor: Any, dim: int) -> list[tuple[str, int]]:
        """(registered tensor, its dimension) that follow dimension ``dim`` of ``tensor``; empty if none is known."""
        shape = tuple(tensor.shape)
        axes = [(name, _axes(self._shapes[name], shape)) for name in self.sources(tensor)]
        return [(name, own[dim]) for name, own in axes if own is not None]

    def owner(self, tensor: Any) -> str | None:
        """Name of the module that holds a registered parameter or buffer."""
        name = self.name(tensor)
        return None if name is None else name.rpartition(".")[0]

    def consume(self, label: Label) -> None:
        """A reader other than an elementwise function: raw outputs that reach it must be gated at their source."""
        self.raw |= label.pending
        self.note_use(label)

    def note_use(self, label: Label) -> None:
        """Remember that a norm's output has a reader that is not a residual sum."""
        if label.norm is not None:
            self.norm_uses.add(label.norm)

    def freeze(self, label: Label, reason: str) -> None:
        """Never remove the channels in ``label``."""
        self.atoms.freeze(label.atoms(), reason)
        self.note_use(label)

    def freeze_counted(self, sizes: Any, reason: str) -> None:
        """Never remove channels that are counted by the numbers in ``sizes`` (nested arguments of an operation)."""
        for label in counted_in(sizes):
            self.freeze(label, reason)

    def channel_atoms(self, value: Any, dim: int, size: int, reader: str) -> np.ndarray:
        """Atoms of ``value`` along ``dim`` (``(size,)``; zeros if unknown); freezes what varies elsewhere."""
        label = self.label(value)
        if label is None:
            return np.zeros(size, dtype=np.int64)
        self.consume(label)
        dim = dim % label.ids.dim()
        if any(d != dim for d in label.varying()):
            self.freeze(label, f"{reader} reads its channels along more than one dimension")
            return np.zeros(size, dtype=np.int64)
        if not label.zero:
            self.freeze(label, f"{reader} would read a value that is not zero when the channel is gated")
        return label.ids.reshape(-1).expand(size).numpy().copy()

    def producer(self, layer: str, size: int, dim: int) -> np.ndarray:
        """Atoms of a layer's output channels; the same ones in every forward."""
        if layer not in self.producers:
            self.producers[layer] = Producer(layer, self.atoms.new(size), dim)
        return self.producers[layer].atoms

    def again(self, layer: str) -> bool:
        """Whether the layer has been called in this forward before; if so, it stays whole, with all that it reads.

        A criterion that watches it would see the maps of both calls.
        """
        if layer not in self._seen:
            self._seen.add(layer)
            return False
        for (tensor, _), atoms in self.axes.items():
            if tensor.rpartition(".")[0] == layer:
                self.atoms.freeze(atoms, AGAIN)
        self.norm_uses.add(layer)
        return True

    def axis(self, tensor: str, dim: int, atoms: np.ndarray) -> None:
        """Index i of ``tensor`` along ``dim`` goes when ``atoms[i]`` goes."""
        self.touched.add(tensor)
        known = self.axes.setdefault((tensor, dim), atoms)
        if known is not atoms:
            self.atoms.merge(known, atoms, "a second forward reads it beside something that is never removed")

    def attribute(self, module: str, name: str, atoms: np.ndarray, per: int = 1) -> None:
        """``module.name`` = living atoms / ``per``."""
        self.attributes.setdefault((module, name), (atoms, per))


class _Below(EagerMode):
    """Shows a tracer what runs below Python's functions too: scripted functions, extensions."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._tracer.below([args, kwargs])
        return func(*args, **(kwargs or {}))


def _axes(source: tuple[int, ...], result: tuple[int, ...]) -> dict[int, int] | None:
    """Dimension of ``result`` -> dimension of ``source``: equal shapes, or both a vector among sizes of 1."""
    if source == result:
        return {dim: dim for dim in range(len(result))}
    own, new = ([d for d, size in enumerate(shape) if size != 1] for shape in (source, result))
    if len(own) == len(new) == 1 and source[own[0]] == result[new[0]]:
        return {new[0]: own[0]}
    return None


def operation_name(func: Any) -> str:
    """One name for function, method and in-place form: ``relu`` for ``F.relu``, ``Tensor.relu_``; ``add`` for ``+=``."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        return f"get:{getattr(func.__self__, '__name__', '')}"
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        return _DUNDER.get(core, name)
    return name.rstrip("_") or name


_DUNDER = {f"{prefix}{op}": op for op in ("add", "sub", "mul") for prefix in ("", "i", "r")}
_DUNDER |= {
    "neg": "neg",
    "abs": "abs",
    "truediv": "div",
    "itruediv": "div",
    "rtruediv": "rdiv",
    "getitem": "getitem",
}


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts and data classes."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
