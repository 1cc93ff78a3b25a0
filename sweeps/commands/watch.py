"""``gcp-sweep status SWEEP --watch``: a live view of a running sweep; it only reads."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from analysis.show.terminal import harmless, terminal
from gcp_core.errors import ConfigError, first_line
from sweeps.commands.scene import Scene, look
from sweeps.commands.scene_view import changes, picture
from sweeps.records.database import database_errors
from sweeps.storage.following import Following

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Seconds between two looks at a folder, and at a store, where every look is a few requests.
EVERY_S, EVERY_STORE_S = 2.0, 15.0
#: A look that takes the processor long is followed by a pause of so many times that, so that a tenth of a core goes into
#: looking; but nobody waits longer than this for news.
_REST, MOST_S = 9.0, 60.0
#: For so long a sweep may be out of reach before the view gives up.
PATIENCE_S = 120.0
_TICK_S = 0.5


class View(Protocol):
    """Who shows what is seen."""

    def show(self, scene: Scene, note: str = "") -> None:
        """``note``: what the viewer has to say."""

    def wait(self, seconds: float) -> None:
        """Until the next look."""


class LineView:
    """One line per change, handed to ``write``."""

    def __init__(self, write: Callable[[str], None], wait: Callable[[float], None] = time.sleep) -> None:
        self._write, self.wait = write, wait
        self._before: Scene | None = None
        self._note = ""

    def show(self, scene: Scene, note: str = "") -> None:
        if note and note != self._note:
            self._write(harmless(note))
        self._note = note
        for line in changes(self._before, scene):
            self._write(harmless(line))
        self._before = scene


class LiveView:
    """A picture on a terminal that is drawn again and again, in its size of the moment."""

    def __init__(self, console: Console, redraw: Callable[[], None]) -> None:
        self._console, self._redraw = console, redraw
        self._last: tuple[Scene, str] | None = None

    @classmethod
    @contextlib.contextmanager
    def on(cls, console: Console) -> Iterator[LiveView]:
        """A view on that terminal; its last picture stays."""
        from rich.live import Live

        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            view = cls(console, lambda: None)
            view._redraw = lambda: live.update(view.picture(), refresh=True)
            yield view

    def picture(self) -> RenderableType:
        """What is to be seen now."""
        scene, note = self._last or (None, "")
        return "" if scene is None else picture(scene, self._console.height, note, self._console.width)

    def show(self, scene: Scene, note: str = "") -> None:
        self._last = (scene, note)
        self._redraw()

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(_TICK_S, left))
            self._redraw()  # the terminal may have another size now


def watch(
    sweep: str | os.PathLike[str],
    view: View,
    now: Callable[[], float] = time.monotonic,
    patience_s: float = PATIENCE_S,
    cost: Callable[[], float] = time.thread_time,
) -> Scene:
    """Look and show until the sweep has ended; the last look.

    Waits for a sweep that has not begun, and for one whose driver was lost, because somebody may continue it.

    Raises:
        ConfigError: there is no sweep (any more), or it cannot be reached, at the start or for ``patience_s`` seconds.
    """
    with Following(sweep, now) as following:
        away = _Away(following.place, patience_s, now)
        unreachable: tuple[type[Exception], ...] = (OSError, *database_errors())
        scene: Scene | None = None
        while True:
            start = cost()
            try:
                scene = look(following)
                away.over()
            except unreachable as exc:
                away.noticed(exc, first=scene is None)
            if scene is not None:
                view.show(scene, away.note)
                if scene.over and not away.note:
                    return scene
            least = EVERY_STORE_S if following.remote else EVERY_S
            view.wait(max(least, min(MOST_S, _REST * (cost() - start))))


def watch_here(sweep: str) -> bool:
    """A picture where somebody is looking, a line per change elsewhere. False = the user has ended the view."""
    try:
        if sys.stdout.isatty():
            with LiveView.on(terminal()) as view:
                watch(sweep, view)
        else:
            watch(sweep, LineView(functools.partial(print, flush=True)))
    except KeyboardInterrupt:
        print("the view has ended; the sweep continues", file=sys.stderr)
        return False
    return True


class _Away:
    """For how long the sweep has been out of reach."""

    def __init__(self, place: str, patience_s: float, now: Callable[[], float]) -> None:
        self._place, self._patience_s, self._now = place, patience_s, now
        self._since: float | None = None
        self.note = ""

    def over(self) -> None:
        self._since, self.note = None, ""

    def noticed(self, exc: BaseException, first: bool) -> None:
        since = self._since = self._now() if self._since is None else self._since
        away_s = self._now() - since
        if first or away_s >= self._patience_s:
            long = "" if first else f" for {away_s:.0f} s"
            raise ConfigError(
                f"the sweep cannot be read{long}: {first_line(exc)}",
                self._place,
                "check that its store and its ledger answer",
            ) from exc
        self.note = f"out of reach, trying again; this is the last known state: {first_line(exc)}"
