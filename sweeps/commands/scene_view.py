"""A look at a running sweep, as a picture for a terminal and as lines for everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.show.terminal import count, quantity, table, words
from sweeps.commands.scene import SILENT_S, Scene
from sweeps.commands.status import counts_text
from sweeps.driver.progress import (
    accuracy_text,
    duration,
    epoch_text,
    front_text,
    macs_text,
    point_text,
    result_line,
    snapshot_line,
)
from sweeps.records.job import Outcome, Record

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Rows of each part where there is room for them.
_RUNNING, _FRONT, _PAUSED, _FAILED = 32, 12, 8, 6
#: Rows that are shown of a part however low the terminal is.
_LEAST = 2
_BAR = 28


def headline(scene: Scene) -> str:
    """``digits-demo: running, 7 of 24 trials ended, hypervolume 0.6120, about 4 min left``."""
    if scene.entry is None:
        return f"{scene.place}: has not begun; waiting for its driver"
    state = scene.entry.state + (f" ({scene.entry.message})" if scene.entry.message else "")
    ended = f"{scene.done} of {scene.planned} trials ended"
    return ", ".join(filter(None, [f"{scene.entry.name}: {state}", ended, _ahead(scene)]))


def changes(before: Scene | None, now: Scene) -> list[str]:
    """One line for everything that is new."""
    if before is None or (before.entry is None and now.entry is not None):
        return [headline(now), *([now.note] if now.note else [])]
    known = {record.job.trial_id: record.status for record in before.records}
    lines: list[str] = []
    for record in sorted(now.records, key=lambda r: (r.ended_ms or now_ms(now), r.job.trial_id)):
        name, was = record.job.trial_id, known.get(record.job.trial_id)
        old = {one.snap.name(name) for one in before.snapshots.get(name, ())}
        lines += [
            snapshot_line(record.job, one.snap)
            for one in now.snapshots.get(name, ())
            if one.snap.name(name) not in old
        ]
        if record.status == was:
            continue
        if record.finished:
            lines.append(result_line(record.job, _outcome(record), now.done, now.planned))
        elif record.status == "paused":
            lines.append(f"{name} rests: {record.decision or 'no reason is recorded'}")
        elif was is not None:
            lines.append(f"{name} goes on")
    ahead, grown = _ahead(now), now.hypervolume != before.hypervolume
    if lines and ahead and (grown or now.done > before.done):
        lines[-1] += f" ({ahead})"
    if now.note != before.note:
        lines.append(now.note or "its driver is back")
    if now.over:
        lines.append(headline(now))
    return lines


def now_ms(scene: Scene) -> int:
    """Later than whatever has ended."""
    return max((record.ended_ms for record in scene.records), default=0) + 1


def _outcome(record: Record) -> Outcome:
    return Outcome(record.status, record.finals, error=record.error, seconds=record.seconds)


def _ahead(scene: Scene) -> str:
    return front_text(scene.hypervolume, scene.left_s, scene.stand_in)


def picture(scene: Scene, height: int, note: str = "") -> RenderableType:
    """The whole scene in at most ``height`` lines, as far as that is possible; what has no room is counted.

    Args:
        note: what the viewer itself has to say.
    """
    from rich.console import Group

    head: list[RenderableType] = []
    if scene.entry is None:
        head.append(words(headline(scene), style="bold"))
    else:
        said = scene.entry.state + (f" ({scene.entry.message})" if scene.entry.message else "")
        head += [words(f"{scene.entry.name}: {said}", style="bold"), *_progress(scene)]
    head += [words(line, style="yellow") for line in (scene.note, note) if line]
    parts = [part for part in (_running(scene), _front(scene), _paused(scene), _failed(scene)) if part.rows]
    # A part takes a title, an empty line above it and, as a table, two lines of header.
    room = height - len(head) - 1 - sum(2 + (2 if part.header else 0) for part in parts)
    shown: list[RenderableType] = []
    for part, rows in zip(parts, _shares([len(part.rows) for part in parts], room)):
        shown += ["", *part.drawn(rows)]
    return Group(*head, *shown)


def _shares(wanted: list[int], room: int) -> list[int]:
    """How many rows each part gets: none more than it has, and what one does not need the others get."""
    given = [min(_LEAST, number) for number in wanted]
    left = room - sum(given)
    while left > 0 and given != wanted:
        for at, number in enumerate(wanted):
            if left > 0 and given[at] < number:
                given[at] += 1
                left -= 1
    return given


class _Part:
    """A title, and rows below it; a table if there is a header."""

    def __init__(
        self, title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], most: int
    ) -> None:
        self.title, self.header, self._all = title, header, rows
        self.rows = rows[:most]

    def drawn(self, number: int) -> list[RenderableType]:
        """The part with so many rows; the last of them says how many more there are."""
        hidden = len(self._all) - number
        title = self.title + (f" (the first {number} of {len(self._all)})" if hidden else "")
        rows = self.rows[:number]
        shown: list[RenderableType] = [words(title, style="bold")]
        if self.header:
            return [*shown, table(self.header, rows)]
        return [*shown, *(words(f"  {row[0]}") for row in rows)]


def _progress(scene: Scene) -> list[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 2, 0, 0))
    total = max(scene.planned, 1)
    ended = f"{scene.done} of {scene.planned} trials ended"
    line.add_row(
        ProgressBar(total, min(scene.done, total), _BAR, complete_style="cyan", finished_style="green"),
        words(ended),
    )
    known = [counts_text(scene.statuses)] if scene.statuses else []
    if scene.queued:
        known.append(f"{scene.queued} waiting for a worker")
    if scene.entry is not None and scene.entry.seconds:
        known.append(f"{duration(scene.entry.seconds)} so far")
    ahead = _ahead(scene)
    return [line, *(words(", ".join(one)) for one in (known, [ahead] if ahead else []) if one)]


def _running(scene: Scene) -> _Part:
    rows: list[tuple[str, ...]] = []
    for record in scene.running:
        seen = scene.sightings[record.job.trial_id]
        says = "trained, waits for its baseline" if seen.ended else ""
        if seen.silent_s > SILENT_S and not seen.ended:
            says = f"no sign of life for {duration(seen.silent_s)}"
        row = seen.row
        rows.append(
            (
                record.job.trial_id,
                seen.host or "?",
                epoch_text(record.job, row) if row else "",
                accuracy_text(row),
                macs_text(row),
                point_text(record.job),
                says,
            )
        )
    header: tuple[str, ...] = ("trial", "on", "epoch", "val acc %", "MACs", "varies", "")
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return _Part("Was running" if scene.note else "Running", header, rows, _RUNNING)


def _front(scene: Scene) -> _Part:
    names = [*scene.objectives]
    header = ["model", *(_HEADINGS.get(name, name) for name in names)]
    more = [name for name in ("accuracy_drop", "macs_removed") if name not in names]
    more = [name for name in more if any(name in member.finals for member in scene.front)]
    header += [_HEADINGS[name] for name in more]
    rows = [
        (member.model, *(_value(name, member.finals) for name in (*names, *more))) for member in scene.front
    ]
    return _Part(f"Front{'' if scene.over else ' so far'}: {len(rows)}", tuple(header), rows, _FRONT)


_HEADINGS = {
    "val_accuracy": "val acc %",
    "accuracy_drop": "drop",
    "macs": "MACs",
    "params": "params",
    "macs_removed": "MACs removed %",
    "latency_ms": "ms",
}


def _value(name: str, finals: Mapping[str, float]) -> str:
    value = finals.get(name)
    if value is None:
        return "-"
    if name in ("macs", "params"):
        return count(value)
    if name == "macs_removed":
        return f"{100 * value:.1f}"
    if name in _HEADINGS:
        return f"{value:.3g}" if name == "latency_ms" else f"{value:.2f}"
    return quantity(name, value)


def _paused(scene: Scene) -> _Part:
    resting = scene.paused
    return _Part(f"Paused: {len(resting)}", (), [(one.said,) for one in resting], _PAUSED)


def _failed(scene: Scene) -> _Part:
    rows = [(f"{r.job.trial_id} {r.status}: {r.error or 'no error is recorded'}",) for r in scene.failures]
    return _Part(f"Without a usable result: {len(rows)}", (), rows, _FAILED)
