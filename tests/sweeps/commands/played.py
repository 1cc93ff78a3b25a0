"""A sweep that goes on by one job at a time, to be watched."""

from __future__ import annotations

from pathlib import Path

from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.storage.exchange import trial_exchange
from sweeps.worker.trial import Extra, run_job
from tests.sweeps.inline import RUNNER, config, new_conductor


class Played:
    """A sweep in this process that goes on by one job with every :meth:`step`."""

    def __init__(self, tmp_path: Path, overrides: dict | None = None, runner: str = RUNNER) -> None:
        self.config = config(tmp_path, overrides)
        self.folder, self.runner = Path(self.config.folder), runner
        self.conductor = None
        self.folder.mkdir(parents=True)
        (self.folder / "run.lock").write_text("")
        self.steps = 0

    def begin(self) -> None:
        write_config(self.folder, self.config)
        self.note("running")
        self.conductor, _, _ = new_conductor(self.config)

    def note(self, state: str, message: str = "") -> None:
        entry = Entry("aaaa", self.config.name, None, "e", "r", self.config.digest(), state, message=message)
        write_entry(self.folder, entry)

    def step(self, _seconds: float = 0.0) -> None:
        self.steps += 1
        if self.conductor is None:
            self.begin()
            return
        job = self.conductor.next_job()
        if job is None:
            self.conductor.conclude()
            self.note("complete")
            return
        with trial_exchange(self.folder, None) as exchange:
            outcome = run_job(
                job,
                self.runner,
                lambda row: self.conductor.epoch(job.trial_id, row),
                exchange=exchange,
                extra=Extra(lambda snap: self.conductor.snapshot(job.trial_id, snap)),
            )
        self.conductor.finish(job.trial_id, outcome)
