"""The paths of a sweep: a path continues or rests at every snapshot; a free worker resumes one or begins another.

Nobody waits for a decision: a path's process reads the driver's answer after it has reported its snapshot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gcp_core.config import TrialConfig
from gcp_core.schema import model_id
from sweeps.config.paths import steps_ahead
from sweeps.config.sweep_config import SweepConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Record, Rest, Snap, read_rest, write_rest
from sweeps.records.layout import REST_FILE, trial_path
from sweeps.records.ledger import Ledger, SnapshotRecord
from sweeps.storage.exchange import Exchange
from sweeps.storage.states import trained_again, without_state
from sweeps.strategy.front import LiveFront
from sweeps.strategy.mirror import warm_up_of
from sweeps.strategy.paths.choice import Choice, Verdict


class Paths:
    """The account of one driver, on top of what the ledger knows; a sweep of single trials has none.

    Args:
        spent: which budget is, as a sentence; empty = none. No further cycle is begun then.
        note: called with a sentence that the user may want to read.

    Attributes:
        entered: paths of the sweep so far, whether begun or not.
    """

    def __init__(
        self,
        config: SweepConfig,
        ledger: Ledger,
        exchange: Exchange,
        front: LiveFront,
        spent: Callable[[], str],
        note: Callable[[str], None],
    ) -> None:
        self._config, self._ledger, self._exchange = config, ledger, exchange
        self._front, self._spent, self._note = front, spent, note
        search = config.search
        self._choice = Choice(search.objectives, search.least_gain, search.limits())
        self._resting: dict[str, Job] = {}
        self._last: dict[str, Snap] = {}
        self.entered = 0
        self._decided: set[str] = set()
        self._verdicts: dict[bool, Verdict] = {}

    # --- what is known --------------------------------------------------------------------------------------------

    def take_over(self, records: list[Record], snapshots: Mapping[str, list[SnapshotRecord]]) -> None:
        """Continue from the ledger. Paths that had come to their end rest too if they may go deeper now."""
        self.entered = len(records)
        for record in records:
            job = record.job
            self._choice.started(job.trial_id, job.config)
            for known in snapshots.get(job.trial_id, ()):
                self.judged(job, known.snap, known.violations)
            self._decided |= {model_id(job.trial_id, level) for level in record.decisions}
            if record.status == "paused" or (record.reopens and self._goes_deeper(job)):
                self._rest(job)
            elif record.finished:
                self._choice.ended(job.trial_id)

    def started(self, job: Job) -> None:
        """A path runs."""
        self._choice.started(job.trial_id, job.config)
        self._verdicts.clear()

    def judged(self, job: Job, snap: Snap, violations: Mapping[str, float]) -> None:
        """A snapshot has been entered in the ledger."""
        self._choice.snapshot(
            job.trial_id, snap.level, snap.epoch, snap.finals, snap.status == "complete", violations
        )
        last = self._last.get(job.trial_id)
        if last is None or last.level < snap.level:
            self._last[job.trial_id] = snap
        if snap.level == 0:
            self.scales()  # it may stand in for a baseline
        if job.trial_id in self._resting:
            self._rest(self._resting[job.trial_id])
        self._verdicts.clear()

    def scales(self) -> None:
        """The front's scales may have moved."""
        scale = self._front.scale()
        if scale is not None:
            self._choice.scale(*scale)
        self._verdicts.clear()

    def over(self, job: Job, outcome: Outcome) -> None:
        """A path has ended. One whose target was raised meanwhile (a killed driver did not hear of its end) rests."""
        if outcome.reopens and self._goes_deeper(job):
            self._rest(job)
        else:
            self._choice.ended(job.trial_id)
        self._verdicts.clear()

    # --- what is decided ------------------------------------------------------------------------------------------

    def decide(self, job: Job, snap: Snap, may_start: bool, waiting: int) -> None:
        """Decide whether a running path continues after its snapshot, and tell it.

        A snapshot that waits for its baseline is not judged yet: its path continues, unless a budget is spent.
        ``waiting``: paths that were drawn and have not begun.
        """
        name, spent = model_id(job.trial_id, snap.level), self._spent()
        judged = self._judged_level(job) >= snap.level
        if name in self._decided or not (judged or spent) or not self._goes_deeper(job, snap):
            return
        self._decided.add(name)
        self._give(may_start)
        verdict = (
            Verdict("pause", reason=spent)
            if spent
            else self._choice.goes_on(job.trial_id, may_start, waiting)
        )
        if verdict.action == "go_on":
            self._take_back(job, snap.level)
        else:
            self._leave_word(job, Rest(snap.level, True, verdict.reason, verdict.action == "end"))
            self._note(f"{job.trial_id} {'rests' if verdict.action == 'pause' else 'ends'}: {verdict.reason}")
        self._ledger.decide(job, snap.level, verdict.to_dict())

    def rests(self, job: Job, outcome: Outcome) -> bool:
        """A path has ended its process after a snapshot; return whether it may continue later."""
        word = read_rest(job.folder)
        self._verdicts.clear()
        if word is not None and word.over:
            return False
        self._ledger.pause(job, outcome)
        self._rest(job)
        return True

    def next(self, may_start: bool) -> Verdict:
        """What a free worker does: resume a path, start one, or nothing."""
        verdict = self._ask(may_start)
        spent = self._spent() if verdict.action == "resume" else ""
        return Verdict("nothing", reason=spent) if spent else verdict

    def _ask(self, may_start: bool) -> Verdict:
        if may_start not in self._verdicts:
            self._give(may_start)
            self._verdicts[may_start] = self._choice.next(may_start)
        return self._verdicts[may_start]

    def _give(self, may_start: bool) -> None:
        """Tell the rule how many paths are still to be started in any case."""
        trials = self._config.num_trials()
        first = min(max(len(self._config.search.points), warm_up_of(trials)), trials)
        self._choice.given(max(0, first - self.entered) if may_start else 0)

    def resume(self, verdict: Verdict) -> tuple[Job, int]:
        """Take a resting path up again: the job to run, and the epoch that it continues from."""
        trial_id = verdict.trial_id
        job, last = self._resting.pop(trial_id), self._last[trial_id]
        missing = without_state(self._exchange, [trial_id])
        if missing:
            self._note(trained_again(missing))
        if verdict.reason:
            self._note(f"{trial_id} continues: {verdict.reason}")
        job = self._ledger.resume(job)
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        write_rest(job.folder, Rest(last.level, False))
        self._exchange.send(f"{trial_path(trial_id)}/{REST_FILE}")  # or it would rest again at once
        return job, last.epoch

    @property
    def resting(self) -> bool:
        """Whether any path rests that has steps left."""
        return any(map(self._goes_deeper, self._resting.values()))

    @property
    def worth_resuming(self) -> bool:
        """Whether one of them would be resumed if no budget forbade it."""
        return self.resting and self._ask(False).action == "resume"

    def concluded(self) -> list[tuple[Job, Outcome]]:
        """The sweep is over: the paths that rest, with their ends."""
        return [
            (record.job, _end(record))
            for record in self._ledger.records("trial")
            if record.status == "paused"
        ]

    # --- details --------------------------------------------------------------------------------------------------

    def _rest(self, job: Job) -> None:
        """The path rests, and may be resumed as soon as all of its models are judged."""
        self._resting[job.trial_id] = job
        word = read_rest(job.folder)
        if word is None or self._judged_level(job) >= word.level:
            self._choice.paused(job.trial_id)

    def _judged_level(self, job: Job) -> int:
        last = self._last.get(job.trial_id)
        return -1 if last is None else last.level

    def _goes_deeper(self, job: Job, last: Snap | None = None) -> bool:
        """Whether anything is left to do after ``last``, by default its last judged model."""
        last = last or self._last.get(job.trial_id)
        if last is None:
            return True
        removed = last.finals[f"{job.config.pruning.of}_removed"]
        return next(steps_ahead(job.config, removed, last.epoch), None) is not None

    def _take_back(self, job: Job, level: int) -> None:
        """Withdraw what a killed driver may have decided."""
        word = read_rest(job.folder)
        if word is not None and word.rest and word.level == level:
            self._leave_word(job, Rest(level, False))

    def _leave_word(self, job: Job, word: Rest) -> None:
        write_rest(job.folder, word)
        self._exchange.offer(f"{trial_path(job.trial_id)}/{REST_FILE}")


def _end(record: Record) -> Outcome:
    return Outcome(
        "complete",
        record.finals,
        spool.rows(Path(record.job.folder)),
        weights_sha256=record.weights_sha256,
        provenance=record.provenance,
        ended="paused",
        part=record.job.part,
    )


def as_now(job: Job, config_now: Callable[[dict[str, Any]], TrialConfig]) -> Job:
    """The job as the sweep's config has it now: target and cap of a path may have been raised since it was entered."""
    if not job.config.is_path or job.kind != "trial":
        return job
    now = config_now(job.point)
    return dataclasses.replace(job, config=now) if now.key() == job.config.key() else job
