"""Contract suites for plug-ins. An outsider's criterion is held to the same rules as ours:

    class TestMine(CriterionContract):
        def criterion(self):
            return build_criterion("my_package.scores:mine")

Runs under pytest, which this module does not import; :func:`check_criterion` runs all of it in one call.
"""

from gcp_core.testing.criteria import (
    CriterionCase,
    CriterionContract,
    check_criterion,
    criterion_case,
    differences,
    fingerprint,
)

__all__ = [
    "CriterionCase",
    "CriterionContract",
    "check_criterion",
    "criterion_case",
    "differences",
    "fingerprint",
]
