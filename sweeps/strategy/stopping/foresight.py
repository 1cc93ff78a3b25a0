"""Where trials will end, as far as can be told from where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

#: Of the ridge regression on standardised columns.
_RIDGE = 1.0

_Costs = Mapping[str, np.ndarray]
_Foresight = Callable[[np.ndarray, np.ndarray, _Costs, _Costs], np.ndarray]
#: Objectives that can be foreseen, (n,) from (accuracy, baseline's accuracy, final cost, unpruned cost). MACs stand in
#: for what is measured in seconds. Other objectives are left out of the comparison.
FORESEEN: dict[str, _Foresight] = {
    "val_accuracy": lambda accuracy, baseline, end, dense: accuracy,
    "accuracy_drop": lambda accuracy, baseline, end, dense: baseline - accuracy,
    "macs": lambda accuracy, baseline, end, dense: end["macs"],
    "params": lambda accuracy, baseline, end, dense: end["params"],
    "macs_removed": lambda accuracy, baseline, end, dense: 1 - end["macs"] / dense["macs"],
    "params_removed": lambda accuracy, baseline, end, dense: 1 - end["params"] / dense["params"],
    "compression": lambda accuracy, baseline, end, dense: dense["params"] / end["params"],
    "latency_ms": lambda accuracy, baseline, end, dense: end["macs"],
    "latency_share": lambda accuracy, baseline, end, dense: end["macs"] / dense["macs"],
    "device_hours": lambda accuracy, baseline, end, dense: end["macs"],
}


def expected_accuracy(facts: np.ndarray, known: np.ndarray, finals: np.ndarray) -> np.ndarray:
    """(n,) final accuracy in per cent that trials may expect, learned from those trained to the end.

    At equal epochs a small net is ahead of a large one, which overtakes it later: compared by the accuracy so far, the
    accurate end of the front would be stopped. So ``final = a + b * accuracy so far + c * log(final MACs)``, with
    ``b >= 0``, by ridge regression. Where accuracy so far says nothing, ``b`` is near 0 and spacing decides.

    Args:
        facts: (n, 2) accuracy so far, log of the final MACs.
        known: (k, 2) the same of trials that have ended.
        finals: (k,) their final accuracies.
    """
    centre, scale = known.mean(axis=0), known.std(axis=0)
    scale[scale == 0] = 1.0
    x, y = (known - centre) / scale, finals - finals.mean()
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(2), x.T @ y)
    if weights[0] < 0:
        weights = np.array([0.0, (x[:, 1] @ y) / (x[:, 1] @ x[:, 1] + _RIDGE)])
    away = (facts - centre) / scale
    # Not a matrix product: that rounds a row as its place among the others has it, and equals should stay equal.
    return finals.mean() + (away[:, 0] * weights[0] + away[:, 1] * weights[1])
