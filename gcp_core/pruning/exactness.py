"""Whether cuts are exact in a network: what is left computes what the whole one does with those channels at zero.

The channel analysis follows operations on tensors, and a network can get past it: with a number of channels that turns
into a plain one (``0.5 * x.shape[1]``, ``math.log(c)``, ``if c > 64``, a layer's ``in_channels``), with the mean of a
parameter that is cut, by writing into a view. So one cut is tried before anything is trained.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcp_core.cost import fit_to_model
from gcp_core.cost.macs import runs_on
from gcp_core.errors import ModelError
from gcp_core.groups import Groups
from gcp_core.groups.trace import tensors_in
from gcp_core.models.arithmetic import float32_products
from gcp_core.plan import Plan
from gcp_core.pruning.surgery import apply_plan, gate_channels

_log = logging.getLogger(__name__)

#: How far logits may differ, as a share of the largest one. A network that insists on float32 is compared in float32.
_TOLERATED = {torch.float64: 1e-6, torch.float32: 1e-3}

_REMEDY = "prune.exclude keeps layers whole"

#: A message names so many groups at most.
_NAMED = 5

#: What this process has found, by network: a worker trains trial after trial with the same few.
_found: dict[tuple[str, tuple[int, ...], int], tuple[str, ...]] = {}


def check_cuts(
    model: nn.Module, groups: Groups, example_input: Tensor, multiple: int = 1, *, named: str = ""
) -> tuple[str, ...]:
    """As :func:`inexact_groups`, and says so in a warning: what such a cut breaks, training has to mend.

    Args:
        named: names the network and its groups: what was found for them in this process is not looked for again. Empty =
            it is.
    """
    key = (named, tuple(example_input.shape), multiple)
    found = _found.get(key)
    if found is None:
        found = inexact_groups(model, groups, example_input, multiple=multiple)
        if named:
            _found[key] = found
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        _log.warning(
            "cuts of %s are not exact: what is left computes something else than the network with these channels at "
            "zero. Does it compute with their number (0.5 * x.shape[1], if c > 64), or write into views? "
            "prune.exclude keeps layers whole",
            ", ".join(found[:_NAMED]) + more,
        )
    return found


def inexact_groups(
    model: nn.Module, groups: Groups, example_input: Tensor, *, multiple: int = 1
) -> tuple[str, ...]:
    """Names of the groups whose units cannot be cut exactly; the model is left as it was.

    Half of the units of every group go from a copy, and only if that is inexact, of each group alone. Scales, biases and
    other vectors are drawn at random, and so is whatever begins at zero, so that nothing is hidden behind it.

    Args:
        example_input: ``(N, C, H, W)``; images of this shape are drawn.
        multiple: so many units, or a multiple, stay in a group.

    Returns:
        None of them also where nothing can be compared: a network that cannot be copied, or whose copy still reads its
        weights (``lambda x: self.fc(x)``), or that uses chance in eval mode. Nor a group with a layer whose weights are
        read without calling it: there is nothing to put to zero.

    Raises:
        ModelError: with its channels removed, the model does not run, in eval or in training mode.
        PlanError: they cannot be removed.
    """
    image = fit_to_model(example_input, model)
    with (
        torch.random.fork_rng(devices=[image.device] if image.device.type == "cuda" else []),
        torch.no_grad(),
        float32_products(),
    ):
        try:
            whole, image, called = _probe(model, image)
        except Exception as exc:  # whatever it is, it says nothing about cuts
            _log.debug("cuts are not compared: %s", exc)
            return ()

        def plan(these: Iterable[str]) -> Plan:
            return _halved(groups, these, multiple)

        def compared(these: Iterable[str]) -> bool:
            return called.issuperset(gate.module for gate in plan(these).gates)

        names = [group.name for group in groups.groups]
        if not compared(names):
            names = [name for name in names if compared([name])]
        half = plan(names)
        if not half.num_units:
            return ()
        differs = _differs(whole, image, half)
        _check_training(whole, image, half)
        if not differs:
            return ()
        alone = tuple(name for name in names if _differs(whole, image, plan([name])))
        return alone or tuple(names)


def _probe(model: nn.Module, image: Tensor) -> tuple[nn.Module, Tensor, set[str]]:
    """A copy with random vectors, in the widest type that it runs in; a random image of that type; what it calls.

    Raises:
        ModelError: there is no such type, or no copy that stands alone.
    """
    torch.manual_seed(0)
    pixels = torch.randn(image.shape)
    for dtype in _TOLERATED:
        whole = copy.deepcopy(model).to(dtype).eval()
        for parameter in whole.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.copy_(0.5 + torch.rand(parameter.shape))
            elif not parameter.any():
                parameter.copy_(torch.randn(parameter.shape))
        drawn = pixels.to(image.device, dtype)
        own = _Reads([*model.parameters(), *model.buffers()])
        try:
            with own:
                called = _called(whole, drawn)
        except RuntimeError:
            continue
        if own.seen:
            raise ModelError("a copy reads its weights", "model")
        return whole, drawn, called
    raise ModelError("it runs on no random image", "model")


class _Reads(TorchFunctionMode):
    """Whether any of these tensors is read meanwhile."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._wanted = {id(tensor) for tensor in tensors}
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= any(id(tensor) in self._wanted for tensor in tensors_in([args, kwargs]))
        return func(*args, **(kwargs or {}))


def _called(whole: nn.Module, image: Tensor) -> set[str]:
    """Names of the modules that a pass calls."""
    called: set[str] = set()

    def noting(name: str) -> Callable[..., None]:
        return lambda module, args, output: called.add(name)

    with ExitStack() as stack:
        for name, module in whole.named_modules():
            stack.callback(module.register_forward_hook(noting(name)).remove)
        whole(image)
    return called


def _halved(groups: Groups, names: Iterable[str], multiple: int) -> Plan:
    """A plan that leaves every second unit of these groups, in multiples."""
    removed = {}
    for name in names:
        size = groups.group(name).size
        left = max(multiple, size // 2 // multiple * multiple)
        kept = {number * size // left for number in range(left)}
        removed[name] = [unit for unit in range(size) if unit not in kept]
    return groups.plan(removed)


def _differs(whole: nn.Module, image: Tensor, plan: Plan) -> bool:
    """Whether the network without these units computes something else than with them at zero."""
    gated = _gated(whole, image, plan)
    try:
        with runs_on(image):
            removed = _logits(_removed(whole, plan), image)
    except ModelError as exc:
        raise ModelError(f"with half of its channels removed, {exc.message}", "model", _REMEDY) from exc
    tolerated = _TOLERATED[image.dtype] * float(gated.abs().max())
    # What is not finite differs from nothing, and neither does what uses chance.
    if not float((removed - gated).abs().max()) > tolerated:
        return False
    return float((_gated(whole, image, plan, seed=1) - gated).abs().max()) <= tolerated


def _check_training(whole: nn.Module, image: Tensor, plan: Plan) -> None:
    """Refuse a network that can be trained, but not without these units: the trace has seen it in eval mode."""
    # Two images: norms want more than one value per channel.
    images = torch.cat([image, image.flip(-1)])
    try:
        with runs_on(images):
            _logits(_removed(whole, plan).train(), images)
    except ModelError as exc:
        try:
            _logits(copy.deepcopy(whole).train(), images)
        except Exception:  # it wants labels, say: that tells nothing about cuts
            return
        said = f"with half of its channels removed, in training mode, {exc.message}"
        raise ModelError(said, "model", _REMEDY) from exc


def _removed(whole: nn.Module, plan: Plan) -> nn.Module:
    small = copy.deepcopy(whole)
    apply_plan(small, plan)
    return small


def _gated(whole: nn.Module, image: Tensor, plan: Plan, seed: int = 0) -> Tensor:
    with gate_channels(whole, plan):
        return _logits(whole, image, seed)


def _logits(model: nn.Module, image: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return model(image)
