"""Contract suites for plug-ins. What an outsider puts into a slot is held to the same rules as ours:

    class TestMine(CriterionContract):
        def criterion(self):
            return build_criterion("my_package.scores:mine")

They run under pytest, which this package does not import; :func:`check_criterion` and its like run a whole suite in one
call.
"""

from gcp_core.testing.criteria import (
    CriterionCase,
    CriterionContract,
    SetCriterionContract,
    check_criterion,
    criterion_case,
)
from gcp_core.testing.events import (
    AllocatorContract,
    ClockContract,
    RepairContract,
    check_allocator,
    check_clock,
    check_repair,
)
from gcp_core.testing.looks import differences, fingerprint
from gcp_core.testing.rewrites import RewriteContract, check_rewrite
from gcp_core.testing.steps import PaceContract, PenaltyContract, check_pace, check_penalty

__all__ = [
    "AllocatorContract",
    "ClockContract",
    "CriterionCase",
    "CriterionContract",
    "PaceContract",
    "PenaltyContract",
    "RepairContract",
    "RewriteContract",
    "SetCriterionContract",
    "check_allocator",
    "check_clock",
    "check_criterion",
    "check_pace",
    "check_penalty",
    "check_repair",
    "check_rewrite",
    "criterion_case",
    "differences",
    "fingerprint",
]
