"""From the runs of a sweep to one model that you can defend.

>>> import analysis                                                     # doctest: +SKIP
>>> trials = analysis.load("runs/digits-demo")                          # doctest: +SKIP
>>> print(analysis.describe(trials))                                    # doctest: +SKIP
>>> analysis.pareto.front(trials, {"val_accuracy": "max", "macs": "min"})   # doctest: +SKIP
>>> analysis.plots.front(trials)                                        # doctest: +SKIP

Importing this package loads neither torch, ray nor mlflow; submodules are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from analysis.runs.load import load

if TYPE_CHECKING:
    from analysis.show.notebook.describe import describe

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
    "plots": "show.notebook",
    "publish": "show",
    "register": "ship",
    "report": "show",
    "select": "choose",
    "table": "runs",
    "verbs": "choose",
}

__all__ = ["describe", "errors", "load", *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "describe":
        return importlib.import_module("analysis.show.notebook.describe").describe
    if name in _MODULES:
        return importlib.import_module(f"analysis.{_MODULES[name]}.{name}")
    if name == "errors":
        return importlib.import_module("analysis.errors")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
