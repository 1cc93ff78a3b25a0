"""From the runs of a sweep to one model that can be defended.

>>> import analysis                                                     # doctest: +SKIP
>>> trials = analysis.load("runs/digits-demo")                          # doctest: +SKIP
>>> analysis.pareto.front(trials, {"val_accuracy": "max", "macs": "min"})   # doctest: +SKIP

Importing this package loads neither torch, ray nor mlflow; submodules are loaded when first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from analysis.runs.load import load

#: Name in this package -> the room where the module stands.
_MODULES = {
    "anchors": "front",
    "compare": "evidence",
    "constraints": "choose",
    "export": "ship",
    "figures": "show",
    "importance": "evidence",
    "noise": "evidence",
    "pareto": "front",
    "publish": "show",
    "register": "ship",
    "report": "show",
    "select": "choose",
    "table": "runs",
    "verbs": "choose",
}

__all__ = ["errors", "load", *_MODULES]


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"analysis.{_MODULES[name]}.{name}")
    if name == "errors":
        return importlib.import_module("analysis.errors")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
