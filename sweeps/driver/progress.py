"""Tells the user how the sweep is going: a plain line per finished trial, and a live table on a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.show.terminal import count, harmless, table, terminal, words
from sweeps.records.job import Job, Outcome, Snap

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


class LineProgress:
    """One line per finished trial, handed to ``write`` (a logger's method, or a print)."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._ahead = ""

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""

    def started(self, job: Job) -> None:
        """Starts are not shown."""

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        """Epochs are not shown either: MLflow has them."""

    def front(self, hypervolume: float | None, left_s: float | None, stand_in: str = "") -> None:
        """Goes into the next line."""
        self._ahead = front_text(hypervolume, left_s, stand_in)

    def snapshot(self, job: Job, snap: Snap) -> None:
        self._write(snapshot_line(job, snap))

    def rested(self, job: Job) -> None:
        """Not shown: a note has said so, and why."""

    def finished(self, job: Job, outcome: Outcome, done: int, total: int) -> None:
        words = f" ({self._ahead})" if self._ahead else ""
        self._write(result_line(job, outcome, done, total) + words)

    def note(self, text: str) -> None:
        self._write(text)


class LiveProgress(LineProgress):
    """The same lines, above a table of what is running now; for a terminal."""

    def __init__(self) -> None:
        self._console = terminal()
        super().__init__(lambda text: self._console.print(words(text), soft_wrap=True))
        self._running: dict[str, tuple[Job, float, dict[str, float]]] = {}
        self._counts = (0, 0)
        self._live: Live | None = None

    def __enter__(self) -> LiveProgress:
        from rich.live import Live

        self._live = Live(self._table(), console=self._console, refresh_per_second=4, transient=True)
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, job: Job) -> None:
        self._running[job.trial_id] = (job, time.monotonic(), {})
        self._update()

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        _, start, _ = self._running.get(job.trial_id, (job, time.monotonic(), {}))
        self._running[job.trial_id] = (job, start, row)
        self._update()

    def rested(self, job: Job) -> None:
        self._running.pop(job.trial_id, None)
        self._update()

    def finished(self, job: Job, outcome: Outcome, done: int, total: int) -> None:
        self._running.pop(job.trial_id, None)
        self._counts = (done, total)
        super().finished(job, outcome, done, total)
        self._update()

    def _update(self) -> None:
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Table:
        done, total = self._counts
        title = ", ".join([f"{done} of {total} trials done", *filter(None, [self._ahead])])
        rows = [
            (
                job.trial_id,
                point_text(job),
                epoch_text(job, row),
                accuracy_text(row),
                macs_text(row),
                f"{time.monotonic() - start:.0f}",
            )
            for job, start, row in self._running.values()
        ]
        heading = ("running", "varies", "epoch", "val acc %", "MACs", "s")
        return table(heading, rows, title if total else "starting")


def progress_here(as_json: bool) -> LineProgress:
    """A live table on a terminal, lines elsewhere; never on the standard output of ``--json``."""
    if not as_json and sys.stdout.isatty():
        return LiveProgress()
    return LineProgress(
        lambda text: print(harmless(text), file=sys.stderr if as_json else sys.stdout, flush=True)
    )


def result_line(job: Job, outcome: Outcome, done: int, total: int) -> str:
    """``[ 7/24] t0006 complete interval=2 ratio=0.3: accuracy 97.2 %, MACs removed 61 %, 1.4 s``."""
    width = len(str(total))
    counter = f"[{done:{width}d}/{total}]"
    parts = []
    if "val_accuracy" in outcome.finals:
        parts.append(f"val accuracy {outcome.finals['val_accuracy']:.2f} %")
    if job.kind != "baseline" and "macs_removed" in outcome.finals:
        parts.append(f"MACs removed {100 * outcome.finals['macs_removed']:.1f} %")
    if outcome.seconds:  # a path that rested has said so when it came to rest
        parts.append(f"{outcome.seconds:.1f} s")
    if outcome.error:
        parts.append(outcome.error)
    return f"{counter} {job.trial_id} {outcome.status:10s} {point_text(job)}: {', '.join(parts)}"


def front_text(hypervolume: float | None, left_s: float | None, stand_in: str = "") -> str:
    """``hypervolume 0.6120, about 4 min left``; only what is known, and what stands for the baseline until it ends."""
    known = [] if hypervolume is None else [f"hypervolume {hypervolume:.4f}"]
    if known and stand_in:
        known[0] += f" against {stand_in} until a baseline ends"
    if left_s:
        known.append(f"about {duration(left_s)} left")
    return ", ".join(known)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def point_text(job: Job) -> str:
    """The values that vary, by the last word of their path; ``unpruned`` for a baseline."""
    if job.kind == "baseline":
        return "unpruned"
    return " ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in job.point.items()) or "-"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def epoch_text(job: Job, row: Mapping[str, float]) -> str:
    """``7/20``; of a path, whose last epoch is not known in advance, ``7``."""
    last = job.config.train.epochs
    return f"{int(row.get('epoch', 0))}" + ("" if last is None else f"/{last}")


def accuracy_text(row: Mapping[str, float]) -> str:
    """Validation accuracy of an epoch, in per cent."""
    return f"{row['val/accuracy']:.2f}" if "val/accuracy" in row else ""


def macs_text(row: Mapping[str, float]) -> str:
    """Multiply-adds of the model after an epoch."""
    return count(row["cost/macs"]) if "cost/macs" in row else ""


def snapshot_line(job: Job, snap: Snap) -> str:
    """``  t0003@2: 97.92 % validation accuracy at 49.0 % of the MACs, 7.8 dense epochs of training``."""
    finals = snap.finals
    words = f"  {snap.name(job.trial_id)}: {finals.get('val_accuracy', math.nan):.2f} % validation accuracy"
    words += f" at {100 * (1 - finals.get('macs_removed', math.nan)):.1f} % of the MACs"
    if "train_cost" in finals:
        words += f", {finals['train_cost']:.1f} dense epochs of training"
    return words + ("" if snap.status == "complete" else f" ({snap.status})")
