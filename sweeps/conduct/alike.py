"""Stop the sweep early if its first trials all fail for the same reason."""

from __future__ import annotations

import re

from sweeps.records.job import Job, Outcome

#: This many first jobs with the same error end the sweep.
ALIKE = 3


class FirstEnds:
    """How the first jobs of a driver ended. A path that rests has done its work as well as one that ends."""

    def __init__(self) -> None:
        self._ended: dict[str, Outcome] = {}
        self._rested = False

    def rested(self) -> None:
        """A path has come to rest: not everything fails. It may be lost later, and that says no more than others."""
        self._rested = True

    def add(self, job: Job, outcome: Outcome, planned: int) -> str:
        """Record how a job ended; return why the sweep should end (empty = it should not).

        All attempts at one baseline count once. ``planned``: trials of the sweep.
        """
        key = job.baseline_key if job.kind == "baseline" else job.trial_id
        if len(self._ended) > ALIKE and key not in self._ended:
            return ""  # a sweep has thousands of further ends, which nobody asks for
        self._ended[key] = Outcome(outcome.status, error=outcome.error)
        answers = list(self._ended.values())
        if self._rested or len(answers) != min(ALIKE, planned + 1):
            return ""
        broken = all(answer.status in ("failed", "lost") for answer in answers)
        if not broken or len({_shape(answer.error) for answer in answers}) > 1:
            return ""
        return f"the first {len(answers)} trials all failed in the same way: {answers[0].error}"


def _shape(error: str) -> str:
    """An error without what differs from trial to trial: ids, numbers, paths' digits."""
    return re.sub(r"[0-9a-f]{8,}|\d+(\.\d+)?", "#", error)
