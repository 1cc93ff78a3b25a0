"""The HTML pages: templates of this package, rendered into one file each; nothing is fetched from anywhere."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

#: A cell of a column of numbers: "34.2 %", "1.23 M MACs", "97.9-99.8", "-", or nothing.
_NUMBER = re.compile(r"|-|[-+±]?\d[\d.,]*.{0,18}")

#: HTML with Jinja2, CSS and JavaScript, each a file of its own.
TEMPLATES = resources.files("analysis.show") / "templates"


@dataclass(frozen=True)
class Table:
    """A static table: header and rows of cells, as the templates show it; false without rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def right(self) -> list[bool]:
        """Which columns hold numbers, with or without a unit: those are set to the right, text to the left."""
        columns = [[str(row[i]).strip() for row in self.rows] for i in range(len(self.header))]
        return [
            any(c not in ("", "-") for c in cells) and all(map(_NUMBER.fullmatch, cells)) for cells in columns
        ]


def source(name: str) -> str:
    """The text of a template, style sheet or script."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def render(template: str, title: str, **values: Any) -> str:
    """A whole page as text. Every value is escaped; a value that the template names and nobody gives is an error."""
    return _environment().get_template(template).render(title=title, **values)


def interactive(template: str, title: str, data: dict[str, Any], **values: Any) -> str:
    """A page with ``data`` for its script."""
    from markupsafe import Markup

    return render(template, title, data=Markup(payload(data)), **values)


def payload(data: dict[str, Any]) -> str:
    """Data as JSON that may stand inside a script element.

    No "<" at all: "</script>" would end the element early and "<!--<script>" would keep it open, whatever names or
    errors contain.
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    found = Environment(
        loader=FunctionLoader(source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Style and script are files of ours and stand in the page as they are: braces in them mean nothing to Jinja.
    found.globals["file"] = lambda name: Markup(source(name).rstrip("\n"))
    return found
