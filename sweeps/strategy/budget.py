"""When enough has been spent: hours, device-hours, or a hypervolume that no longer grows.

A budget never ends a trial: no new one is started, those that run come to their end, and the sweep is complete. Hours
and device-hours end the whole sweep, confirmation runs included; a plateau ends the search alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeps.config.limits import parse_plateau

if TYPE_CHECKING:
    from sweeps.config.search import SearchConfig
    from sweeps.config.sweep_config import ResourcesConfig, SweepConfig
    from sweeps.records.folder import Entry
    from sweeps.records.job import Job, Outcome, Record
    from sweeps.strategy.front import LiveFront

_SAVE_EVERY_S = 30.0
#: What :attr:`Budget.account` says; a sweep's entry has attributes of these names.
ACCOUNT = ("seconds", "trial_seconds", "device_seconds")


class Budget:
    """Keeps the account of one driver, on top of what earlier drivers of the sweep spent.

    Args:
        search: the limits.
        resources: what a trial takes; its device-hours are wall time times GPUs, or times CPUs where it has no GPU.
        before_s: seconds that earlier drivers ran trials (time between drivers does not count).
        save: is told now and then what is spent so far (:attr:`account`), so that a killed driver's time is not
            forgotten.
        now: a clock in seconds.
        trials_before_s: seconds that the trials of earlier drivers took, added up.
        devices_before_s: the same, each times the devices that it had; None = as many as a trial has now.
    """

    def __init__(
        self,
        search: SearchConfig,
        resources: ResourcesConfig,
        before_s: float = 0.0,
        save: Callable[[Mapping[str, Any]], None] | None = None,
        now: Callable[[], float] = time.monotonic,
        trials_before_s: float = 0.0,
        devices_before_s: float | None = None,
    ) -> None:
        self._search, self._now, self._save = search, now, save or (lambda account: None)
        self._plateau = parse_plateau(search.plateau) if search.plateau else None
        self._devices = resources.gpus or resources.cpus
        self._before_s = before_s
        self._start: float | None = None
        self._saved = 0.0
        self._started: dict[str, float] = {}
        self._signs: dict[str, float] = {}
        self._lost: dict[str, float] = {}
        self._ended_s = self._trials_before_s = trials_before_s
        as_now_s = self._devices * trials_before_s
        self._devices_before_s = as_now_s if devices_before_s is None else devices_before_s
        self._ended = 0
        self._used_up = self._level = ""

    # --- the account ----------------------------------------------------------------------------------------------

    def recall(self, records: Iterable[Record]) -> None:
        """Jobs that ended under earlier drivers; of two accounts of them the larger one counts."""
        self._ended_s = max(self._ended_s, sum(record.seconds for record in records))

    def started(self, job: Job) -> None:
        self._started[job.trial_id] = self._now()
        if self._start is None:
            self._start = self._saved = self._now()

    def epoch(self, job: Job) -> None:
        """A heartbeat."""
        self._started.setdefault(job.trial_id, self._now())  # of another attempt, where one was lost
        self._signs.setdefault(job.trial_id, self._now())
        self.tick()

    def lost(self, job: Job) -> None:
        """An attempt was lost. Until the next one gives a sign the job waits for a node, which takes nobody's time."""
        now = self._now()
        started = self._started.pop(job.trial_id, now)
        spent = now - self._signs.pop(job.trial_id, started)
        self._lost[job.trial_id] = self._lost.get(job.trial_id, 0.0) + spent

    def tick(self) -> None:
        """Time has passed."""
        if self._start is not None and self._now() - self._saved >= _SAVE_EVERY_S:
            self._saved = self._now()
            self._save(self.account)

    def ended(self, job: Job, outcome: Outcome) -> float:
        """Takes in how a job ended. The seconds it took.

        Its own word covers the process that ended it, and not its waiting for a node. Attempts that were lost before
        count from their first heartbeat to their loss, and a job without any word of its own from its start.
        """
        now = self._now()
        started = self._started.pop(job.trial_id, now)
        first = self._signs.pop(job.trial_id, now)
        cost = max(outcome.seconds, now - (started if outcome.status == "lost" else first))
        cost += self._lost.pop(job.trial_id, 0.0)
        self._ended_s += cost
        self._ended += outcome.status != "paused"
        self.tick()
        return cost

    @property
    def seconds(self) -> float:
        """Wall time of all drivers so far, from a driver's first trial on."""
        return self._before_s + (0.0 if self._start is None else self._now() - self._start)

    @property
    def trial_seconds(self) -> float:
        """Wall time of all jobs so far, added up, those running included."""
        running = sum(self._now() - start for start in self._started.values())
        return self._ended_s + sum(self._lost.values()) + running

    @property
    def device_seconds(self) -> float:
        """The same, each times its devices; a sweep may go on with more or fewer of them."""
        return self._devices_before_s + self._devices * (self.trial_seconds - self._trials_before_s)

    @property
    def device_hours(self) -> float:
        """:attr:`device_seconds` in hours."""
        return self.device_seconds / 3600

    @property
    def account(self) -> dict[str, Any]:
        """What is spent so far, by the names in :data:`ACCOUNT`."""
        return {name: getattr(self, name) for name in ACCOUNT}

    # --- what follows from it -------------------------------------------------------------------------------------

    @property
    def used_up(self) -> bool:
        """Whether the hours or device-hours are. Once they are, they stay so."""
        self._used_up = self._used_up or self._reached()
        return bool(self._used_up)

    def spent(self, done: int, planned: int, front: LiveFront | None, more: str = "") -> str:
        """Which limit is reached, as a sentence; empty = none. Once reached, a limit stays so.

        ``front`` None leaves out the plateau; ``more`` are words on what is done besides the trials.

        >>> from sweeps.config.sweep_config import ResourcesConfig, SearchConfig
        >>> budget = Budget(SearchConfig(hours=2), ResourcesConfig(), before_s=7200)
        >>> budget.spent(31, 64, None)
        'the budget of 2 hours is spent after 31 of 64 trials (raise search.hours to continue)'
        """
        if not self.used_up and front is not None:
            self._level = self._level or self._grown_too_little(front)
        what, _, remedy = (self._used_up or (self._level if front is not None else "")).partition("|")
        return f"{what} after {done} of {planned} trials{more} ({remedy} to go on)" if what else ""

    def _reached(self) -> str:
        search = self._search
        if search.hours is not None and self.seconds >= 3600 * search.hours:
            return f"the budget of {_plural(search.hours, 'hour')} is spent|raise search.hours"
        if search.device_hours is not None and self.device_hours >= search.device_hours:
            return f"the budget of {_plural(search.device_hours, 'device-hour')} is spent|raise search.device_hours"
        return ""

    def _grown_too_little(self, front: LiveFront) -> str:
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


def budget_of(
    config: SweepConfig, entry: Entry, save: Callable[[Mapping[str, Any]], None] | None = None
) -> Budget:
    """The account of a driver on top of what the sweep's entry says of earlier ones."""
    return Budget(
        config.search,
        config.resources,
        entry.seconds,
        save,
        trials_before_s=entry.trial_seconds,
        devices_before_s=entry.device_seconds,
    )


def already_spent(
    config: SweepConfig,
    entry: Entry,
    trials: list[Record],
    baselines: list[Record],
    confirm: Sequence[Record] = (),
) -> str:
    """:meth:`Budget.spent` of a sweep that nobody runs, by its ledger and its entry.

    A plateau counts only where nothing but trials is missing.
    """
    from sweeps.strategy.front import LiveFront

    budget = budget_of(config, entry)
    budget.recall([*baselines, *trials, *confirm])
    front = None
    if entry.confirm_seeds >= config.confirm.seeds:
        front = LiveFront(config.search.objectives)
        front.recall(trials, baselines)
    return budget.spent(sum(record.finished for record in trials), config.num_trials(), front)


def _plural(number: float, word: str) -> str:
    return f"{number:g} {word}{'' if number == 1 else 's'}"
