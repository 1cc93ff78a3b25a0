"""Tables in the terminal: the only place that draws them, for both programs.

Numbers stand on the right, words on the left. On a terminal a table fits its width and long words run over several
lines; everywhere else it is as wide as it needs to be, and holds no codes. What stands in a cell is shown as it is: no
markup, no control characters.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from analysis import text
from analysis.text import count, quantity

__all__ = [
    "as_text",
    "count",
    "facts",
    "harmless",
    "models",
    "quantity",
    "show",
    "table",
    "terminal",
    "words",
]

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

#: No line of ours is longer.
_WIDE = 1_000_000
_ONE = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
#: ``97.25``, ``1.23 M``, ``10 to 90 %``, ``97.9-99.8``, ``7/20``; a model such as ``t0007@3`` is a word.
_NUMBER = re.compile(rf"{_ONE}(?:(?:-| to |/){_ONE})?(?: ?[%a-zA-Z]+(?: [a-zA-Z]+)?)?")
_MISSING = ("", "-", "?")
#: A column of words is not made narrower than this.
_WORD = 8


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """A table with a line below its header. A column of numbers (and gaps) is aligned on the right and never broken."""
    from rich import box
    from rich.table import Table

    drawn = Table(
        box=box.Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True),
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        title=words(title) if title else None,
        title_justify="left",
        title_style="",
    )
    cells = [[words(cell) for cell in row] for row in rows]
    for number, heading in enumerate(header):
        column = [row[number].plain for row in cells]
        if _is_numeric(column):
            width = max(len(cell) for cell in [heading, *column])
            drawn.add_column(words(heading), justify="right", no_wrap=True, min_width=width)
        else:
            drawn.add_column(words(heading), overflow="fold")
    for row in cells:
        drawn.add_row(*row)
    return drawn


def facts(pairs: Iterable[tuple[str, Any]], indent: int = 2) -> Table:
    """Labels and what there is to say about each, one below the other, without a header."""
    from rich.table import Table

    drawn = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for label, value in pairs:
        drawn.add_row(words(" " * indent + label), words(value))
    return drawn


def models(df: pd.DataFrame, config: Sequence[str], marks: Mapping[Hashable, str] | None = None) -> Table:
    """Models with accuracy, cost and the given configuration columns; ``marks`` = index of a row -> note in the last
    column.
    """
    header, rows = text.trials_cells(df, config)
    if marks:
        header = [*header, ""]
        rows = [[*row, marks.get(index, "")] for index, row in zip(df.index, rows)]
    return table(header, rows)


def words(value: object, style: str = "") -> Text:
    """A value as it is: brackets mean nothing, and a control character is seen as its escape (``\\x1b``)."""
    from rich.text import Text

    return Text(harmless(value), style=style)


def harmless(value: object) -> str:
    """The value as text that moves no cursor: control characters as their escapes."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(value))


def as_text(drawn: RenderableType) -> str:
    """Plain text, as wide as it needs to be, without codes and without spaces at the ends of lines."""
    from rich.console import Console

    sink = io.StringIO()
    Console(file=sink, width=_WIDE, color_system=None, force_terminal=False, force_jupyter=False).print(drawn)
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip("\n").split("\n"))


def show(drawn: RenderableType) -> None:
    """Print on standard output."""
    if not sys.stdout.isatty():
        sys.stdout.write(as_text(drawn) + "\n")
        return
    console = terminal()
    console.width = max(console.width, _least(drawn))
    console.print(drawn)


def terminal(file: TextIO | None = None) -> Console:
    """The terminal, or whatever ``file`` (default: standard output) is; codes go to a terminal only."""
    from rich.console import Console

    file = file or sys.stdout
    return Console(file=file, force_terminal=file.isatty(), force_jupyter=False, highlight=False)


def _least(drawn: RenderableType) -> int:
    """Below this width a number would be cut."""
    columns = getattr(drawn, "columns", ())
    return sum((column.min_width or _WORD) + 2 for column in columns)


def _is_numeric(column: Sequence[str]) -> bool:
    known = [cell for cell in column if cell not in _MISSING]
    return bool(known) and all(_NUMBER.fullmatch(cell) for cell in known)
