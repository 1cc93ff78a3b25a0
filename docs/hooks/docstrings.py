"""An extension of griffe, which reads the docstrings for the site: reStructuredText roles and doctests as Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")
_DOCTEST = re.compile(r"^( *)>>> .*\n?(?:\1.*\S.*\n?)*", re.MULTILINE)


class AsMarkdown(griffe.Extension):
    """``:func:`name``` becomes code, and examples become code blocks instead of quotations."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _DOCTEST.sub(_fenced, text)


def _fenced(match: re.Match[str]) -> str:
    margin = match.group(1)
    return f"{margin}```pycon\n{match.group().rstrip()}\n{margin}```\n"
