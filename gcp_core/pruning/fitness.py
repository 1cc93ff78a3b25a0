"""Whether a cut or a growth fits model and optimiser: what both ask before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from gcp_core.errors import PlanError, did_you_mean
from gcp_core.plan import AttributeChange

#: Optimisers whose state is one tensor per weight (plus scalars), so that cutting it is exact.
SUPPORTED_OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam")


def check_attributes(model: nn.Module, changes: Iterable[AttributeChange], what: str) -> None:
    """The modules have the numbers that ``what`` (a plan, a growth) starts from.

    Raises:
        PlanError: a module is not there, or has another number.
    """
    modules = dict(model.named_modules())
    for change in changes:
        if change.module not in modules:
            raise PlanError(
                "the model has no such module", change.module, did_you_mean(change.module, modules)
            )
        given = getattr(modules[change.module], change.name, None)
        if given != change.before:
            raise PlanError(
                f"the {what} expects {change.name}={change.before}, the model has {given}", change.module
            )


def check_kind(optimizer: Optimizer) -> None:
    """The optimiser is, or derives from, one of :data:`SUPPORTED_OPTIMIZERS`.

    Raises:
        PlanError: it does not.
    """
    kinds = {base.__name__ for base in type(optimizer).__mro__ if base.__module__.startswith("torch.optim")}
    if not kinds & set(SUPPORTED_OPTIMIZERS):
        known = ", ".join(SUPPORTED_OPTIMIZERS)
        raise PlanError(f"{type(optimizer).__name__} is not supported", "optimizer", f"supported: {known}")
