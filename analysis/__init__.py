"""From the runs of a sweep to one model that can be defended.

>>> import analysis                                                     # doctest: +SKIP
>>> trials = analysis.load("runs/digits-demo")                          # doctest: +SKIP
>>> analysis.pareto.front(trials, {"val_accuracy": "max", "macs": "min"})   # doctest: +SKIP

Importing this package loads neither torch, ray nor mlflow; submodules are loaded when first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# ``load`` is a function here and a module beside it; binding it now keeps a later submodule import
# from putting the module in its place.
from analysis.load import load

_SUBMODULES = (
    "anchors",
    "compare",
    "constraints",
    "errors",
    "export",
    "figures",
    "importance",
    "noise",
    "pareto",
    "publish",
    "register",
    "report",
    "select",
    "table",
    "verbs",
)

__all__ = ["load", *_SUBMODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"analysis.{name}")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
