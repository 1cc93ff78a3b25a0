"""A look at a running sweep, as a picture for a terminal and as lines for everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.show.terminal import count, quantity, table, words
from sweeps.commands.scene import SILENT_S, Member, Scene
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
#: Nothing is broken into lines.
_WIDE = 1_000_000


def headline(scene: Scene) -> str:
    """``digits-demo: running, 7 of 24 trials ended, hypervolume 0.6120, about 4 min left``."""
    if scene.entry is None:
        return f"{scene.place}: {scene.state}"
    ended = f"{scene.done} of {scene.planned} trials ended"
    return ", ".join(filter(None, [f"{scene.entry.name}: {scene.state}", ended, _ahead(scene)]))


def changes(before: Scene | None, now: Scene) -> list[str]:
    """One line for everything that is new."""
    if before is None or (before.entry is None and now.entry is not None):
        return [headline(now), *_to_go_on(now)]
    known = {record.job.trial_id: record.status for record in before.records}
    resting = {one.trial_id: one.said for one in now.paused}
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
            lines.append(f"{name} {resting[name]}")
        elif was is not None:
            lines.append(f"{name} goes on")
    ahead, grown = _ahead(now), now.hypervolume != before.hypervolume
    if lines and ahead and (grown or now.done > before.done):
        lines[-1] += f" ({ahead})"
    if now.lost != before.lost:
        lines += [now.state, *_to_go_on(now)] if now.lost else ["its driver is back"]
    if now.over:
        lines.append(headline(now))
    return lines


def now_ms(scene: Scene) -> int:
    """Later than whatever has ended."""
    return max((record.ended_ms for record in scene.records), default=0) + 1


def _outcome(record: Record) -> Outcome:
    return Outcome(record.status, record.finals, error=record.error, seconds=record.seconds)


def _to_go_on(scene: Scene) -> list[str]:
    """What to type after the driver died."""
    if not scene.lost or scene.entry is None:
        return []
    return [f"continue:  {scene.again or 'gcp-sweep run, with the config that it was started with'}"]


def _ahead(scene: Scene) -> str:
    return front_text(scene.hypervolume, scene.left_s, scene.stand_in)


def picture(scene: Scene, height: int, note: str = "", width: int = _WIDE) -> RenderableType:
    """The whole scene in at most ``height`` lines, as far as possible; what has no room is counted.

    Args:
        height, width: of the terminal, in lines and characters.
        note: what the viewer itself has to say.
    """
    from rich.console import Group

    name = scene.place if scene.entry is None else scene.entry.name
    head: list[RenderableType] = [words(f"{name}: {scene.state}", style="bold red" if scene.lost else "bold")]
    head += [words(line, style="bold") for line in _to_go_on(scene)]
    if scene.entry is not None:
        head += _progress(scene)
    head += [words(line, style="yellow") for line in [note] if line]
    parts = [part for part in (_running(scene), _front(scene), _paused(scene), _failed(scene)) if part.rows]
    # A part takes a title, an empty line above it and, as a table, two lines of header.
    room = height - sum(_lines(line, width) for line in head) - 1
    room -= sum(1 + _lines(part.titled(_LEAST), width) + (2 if part.header else 0) for part in parts)
    shown: list[RenderableType] = []
    costs = [part.lines_per_row(width) for part in parts]
    for part, rows in zip(parts, _shares([len(part.rows) for part in parts], costs, room)):
        shown += ["", *part.drawn(rows)]
    return Group(*head, *shown)


def _lines(shown: object, width: int) -> int:
    """How many lines a text takes on a terminal that wide, about; anything else takes one."""
    from rich.text import Text

    return max(1, math.ceil(len(shown) / width)) if isinstance(shown, (str, Text)) else 1


def _shares(wanted: list[int], costs: list[int], room: int) -> list[int]:
    """How many rows each part gets: none more than it has, and what one does not need the others get.

    A row of a part takes so many lines as ``costs`` says.
    """
    given = [min(_LEAST, number) for number in wanted]
    left = room - sum(number * cost for number, cost in zip(given, costs))
    while True:
        fitting = [at for at, number in enumerate(wanted) if given[at] < number and costs[at] <= left]
        if not fitting:
            return given
        for at in fitting:
            if costs[at] <= left:
                given[at] += 1
                left -= costs[at]


class _Part:
    """A title, with what there is to know ``about`` the rows below it; a table if there is a header."""

    def __init__(
        self,
        title: str,
        header: tuple[str, ...],
        rows: Sequence[tuple[str, ...]],
        most: int,
        about: str = "",
    ) -> None:
        self.title, self.header, self._all, self._about = title, header, rows, about
        self.rows = rows[:most]

    def lines_per_row(self, width: int) -> int:
        """Of its longest sentence on a terminal that wide; rows of a table are taken for one line."""
        if self.header:
            return 1
        return max(_lines(f"  {row[0]}", width) for row in self.rows)

    def titled(self, number: int) -> str:
        """The title over so many rows."""
        notes = [f"the first {number} of {len(self._all)}" if number < len(self._all) else "", self._about]
        return self.title + (f" ({', '.join(filter(None, notes))})" if any(notes) else "")

    def drawn(self, number: int) -> list[RenderableType]:
        """The part with so many rows; its title says how many more there are."""
        rows = self.rows[:number]
        shown: list[RenderableType] = [words(self.titled(number), style="bold")]
        if self.header:
            return [*shown, table(self.header, rows)]
        return [*shown, *(words(f"  {row[0]}") for row in rows)]


def _progress(scene: Scene) -> list[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 2, 0, 0))
    total = max(scene.planned, 1)
    line.add_row(
        ProgressBar(total, min(scene.done, total), _BAR, complete_style="cyan", finished_style="green"),
        words(_ended_text(scene)),
    )
    at_work = sum(record.job.kind == "trial" for record in scene.running)
    others = {"paused": scene.statuses.get("paused", 0), "interrupted" if scene.lost else "running": at_work}
    entered = sum(others.values())
    if not scene.lost:
        others["waiting for a worker"] = len(scene.queued)
        # Baselines and confirm runs wait too, and are none of the trials that were planned.
        entered += sum(record.job.kind == "trial" for record in scene.queued)
    others["not begun"] = scene.planned - scene.done - entered
    known = [f"{number} {what}" for what, number in others.items() if number]
    if scene.entry is not None and scene.entry.seconds:
        known.append(f"{duration(scene.entry.seconds)} with a driver at work")
    return [line, *(words(one) for one in (", ".join(known), _ahead(scene), _compared(scene)) if one)]


def _ended_text(scene: Scene) -> str:
    """``5 of 8 trials ended: 4 complete, 1 failed``."""
    ended = {status: number for status, number in scene.statuses.items() if status != "paused"}
    said = f"{scene.done} of {scene.planned} trials ended"
    if not scene.done:
        return said
    return f"{said}, all complete" if set(ended) == {"complete"} else f"{said}: {counts_text(ended)}"


def _compared(scene: Scene) -> str:
    """``unpruned: 97.03 % at 152 k MACs; best accuracy so far t0003@2: 91.39 % (5.64 points less)``, and its MACs."""
    unpruned, best = scene.unpruned, scene.best
    said = []
    if unpruned is not None:
        name = f"unpruned so far ({unpruned.model})" if scene.stand_in else "unpruned"
        macs = f" at {count(unpruned.finals['macs'])} MACs" if "macs" in unpruned.finals else ""
        said.append(f"{name}: {unpruned.finals['val_accuracy']:.2f} %{macs}")
    if best is not None:
        accuracy = best.finals["val_accuracy"]
        words = f"best accuracy{'' if scene.over else ' so far'} {best.model}: {accuracy:.2f} %"
        if unpruned is not None:
            less = unpruned.finals["val_accuracy"] - accuracy
            words += f" ({abs(less):.2f} points {'less' if less >= 0 else 'more'})"
        if "macs_removed" in best.finals:
            words += f" at {100 * best.finals['macs_removed']:.0f} % fewer MACs"
        said.append(words)
    return "; ".join(said)


def _running(scene: Scene) -> _Part:
    rows: list[tuple[str, ...]] = []
    for record in scene.running:
        seen = scene.sightings[record.job.trial_id]
        row = seen.row
        if scene.lost:
            says = _goes_on(scene.kept.get(record.job.trial_id), seen.ended)
        else:
            says = "trained; waits for its baseline" if seen.ended else ""
            if seen.silent_s > SILENT_S and not seen.ended:
                says = f"no sign of life for {duration(seen.silent_s)}"
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
    header: tuple[str, ...] = ("trial", "on", "epoch", "val acc %", "MACs", "settings")
    header = (*header, "goes on" if scene.lost else "state")
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return _Part("Interrupted" if scene.lost else "Running", header, rows, _RUNNING)


def _goes_on(epoch: int | None, trained: bool) -> str:
    """Where an interrupted trial does."""
    if trained:
        return "is trained; its result will be entered"
    if epoch is None:
        return "after the last epoch kept"
    return f"after epoch {epoch}" if epoch else "from its beginning"


def _front(scene: Scene) -> _Part:
    front = [_with_drop(scene, member) for member in scene.front]
    names = [*scene.objectives]
    header = ["model", *(_HEADINGS.get(name, name) for name in names)]
    more = [name for name in ("accuracy_drop", "macs_removed") if name not in names]
    more = [name for name in more if any(name in member.finals for member in front)]
    header += [_HEADINGS[name] for name in more]
    rows = [(member.model, *(_value(name, member.finals) for name in (*names, *more))) for member in front]
    title = f"Front{'' if scene.over else ' so far'}: {len(rows)}"
    return _Part(title, tuple(header), rows, _FRONT, "finished models only")


_HEADINGS = {
    "val_accuracy": "val acc %",
    "accuracy_drop": "drop (points)",
    "macs": "MACs",
    "params": "params",
    "macs_removed": "MACs removed %",
    "latency_ms": "ms",
}


def _with_drop(scene: Scene, member: Member) -> Member:
    """A snapshot that was taken before its baseline ended was entered without its drop."""
    twin = None if scene.stand_in else scene.unpruned_of(member.model)
    if twin is None or "accuracy_drop" in member.finals or "val_accuracy" not in member.finals:
        return member
    drop = twin.finals["val_accuracy"] - member.finals["val_accuracy"]
    return Member(member.model, {**member.finals, "accuracy_drop": drop})


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
    about = "" if scene.over else "each continues when its next step promises most"
    return _Part(f"Paused: {len(resting)}", (), [(one.said,) for one in resting], _PAUSED, about)


def _failed(scene: Scene) -> _Part:
    rows = [(f"{r.job.trial_id} {r.status}: {r.error or 'no error is recorded'}",) for r in scene.failures]
    return _Part(f"Without a usable result: {len(rows)}", (), rows, _FAILED)
