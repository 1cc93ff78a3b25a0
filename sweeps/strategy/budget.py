"""When enough has been spent: hours, device-hours, or a hypervolume that no longer grows.

A budget never ends a trial: no new one is started, those that run come to their end, and the sweep is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sweeps.config.limits import parse_plateau

if TYPE_CHECKING:
    from sweeps.config.sweep_config import ResourcesConfig, SearchConfig, SweepConfig
    from sweeps.records.job import Job, Outcome, Record
    from sweeps.strategy.front import LiveFront

_SAVE_EVERY_S = 30.0


class Budget:
    """Keeps the account of one driver, on top of what earlier drivers of the sweep spent.

    Args:
        search: the limits.
        resources: what a trial takes; its device-hours are wall time times GPUs, or times CPUs where it has no GPU.
        before_s: seconds that earlier drivers ran trials (time between drivers does not count).
        save: is told the seconds spent so far, now and then, so that a killed driver's time is not forgotten.
        now: a clock in seconds.
    """

    def __init__(
        self,
        search: SearchConfig,
        resources: ResourcesConfig,
        before_s: float = 0.0,
        save: Callable[[float], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._search, self._now, self._save = search, now, save or (lambda seconds: None)
        self._plateau = parse_plateau(search.plateau, "search.plateau") if search.plateau else None
        self._devices = resources.gpus or resources.cpus
        self._before_s = before_s
        self._start: float | None = None
        self._saved = 0.0
        self._running: dict[str, float] = {}
        self._ended_s = 0.0
        self._ended = 0
        self._spent = ""

    # --- the account ----------------------------------------------------------------------------------------------

    def recall(self, records: Iterable[Record]) -> None:
        """Trials and baselines that ended under earlier drivers."""
        self._ended_s += sum(record.seconds for record in records if record.finished)

    def started(self, job: Job) -> None:
        self._running[job.trial_id] = self._now()
        if self._start is None:
            self._start = self._saved = self._now()

    def tick(self) -> None:
        """Time has passed."""
        if self._start is not None and self._now() - self._saved >= _SAVE_EVERY_S:
            self._saved = self._now()
            self._save(self.seconds)

    def ended(self, job: Job, outcome: Outcome) -> None:
        self._running.pop(job.trial_id, None)
        self._ended_s += outcome.seconds
        self._ended += 1
        self.tick()

    @property
    def seconds(self) -> float:
        """Wall time of all drivers so far, from a driver's first trial on."""
        return self._before_s + (0.0 if self._start is None else self._now() - self._start)

    @property
    def device_hours(self) -> float:
        """Of all trials and baselines, those running included."""
        running = sum(self._now() - start for start in self._running.values())
        return self._devices * (self._ended_s + running) / 3600

    # --- what follows from it -------------------------------------------------------------------------------------

    def spent(self, done: int, planned: int, front: LiveFront) -> str:
        """Which limit is reached, as a sentence; empty = none. Once reached, a limit stays so.

        >>> from sweeps.config.sweep_config import ResourcesConfig, SearchConfig
        >>> budget = Budget(SearchConfig(hours=2), ResourcesConfig(), before_s=7200)
        >>> budget.spent(31, 64, None)
        'the budget of 2 hours is spent after 31 of 64 trials (raise search.hours to go on)'
        """
        if not self._spent:
            self._spent = self._reached(front)
        what, _, remedy = self._spent.partition("|")
        return f"{what} after {done} of {planned} trials ({remedy} to go on)" if what else ""

    def _reached(self, front: LiveFront) -> str:
        search = self._search
        if search.hours is not None and self.seconds >= 3600 * search.hours:
            return f"the budget of {_plural(search.hours, 'hour')} is spent|raise search.hours"
        if search.device_hours is not None and self.device_hours >= search.device_hours:
            return f"the budget of {_plural(search.device_hours, 'device-hour')} is spent|raise search.device_hours"
        if self._plateau is None:
            return ""
        growth = front.growth(self._plateau.trials)
        if growth is None or growth > self._plateau.percent:
            return ""
        wanted = (
            f"over the last {_plural(self._plateau.trials, 'trial')} (plateau: {self._plateau.percent:g} %)"
        )
        return f"the hypervolume grew by {growth:.2g} % {wanted}|lower search.plateau"

    def left_s(self, done: int, total: int) -> float | None:
        """Seconds until the sweep ends at the pace of this driver so far; None before its first trial has ended."""
        if self._start is None or not self._ended:
            return None
        left = max(0, total - done) * (self._now() - self._start) / self._ended
        if self._search.hours is not None:
            left = min(left, max(0.0, 3600 * self._search.hours - self.seconds))
        return left


def already_spent(config: SweepConfig, seconds: float, trials: list[Record], baselines: list[Record]) -> str:
    """:meth:`Budget.spent` of a sweep that nobody runs, by its ledger and the seconds its drivers ran."""
    from sweeps.strategy.front import LiveFront

    budget = Budget(config.search, config.resources, before_s=seconds)
    budget.recall([*baselines, *trials])
    front = LiveFront(config.search.objectives)
    front.recall(trials, baselines)
    return budget.spent(sum(record.finished for record in trials), config.num_trials(), front)


def _plural(number: float, word: str) -> str:
    return f"{number:g} {word}{'' if number == 1 else 's'}"
