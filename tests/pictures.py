"""Fixtures for tests of what draws pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from analysis.show import figures

#: As it is before any folder of tests replaces it: three of them do.
RENDER = figures.render


def without_pictures(set_attribute: Callable[[object, str, object], None]) -> None:
    """Figures are made and their CSV is written; PNG and SVG stay empty: pictures are most of the time of a report."""
    set_attribute(figures, "render", lambda figure, *files: [file.touch() for file in files])


@pytest.fixture(scope="session", autouse=True)
def rendering() -> Iterator[Callable[..., None]]:
    """:func:`without_pictures`; a test that is about pictures asks for ``rendered``."""
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch.setattr)
        yield RENDER


@pytest.fixture
def rendered(rendering: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG and SVG are really drawn."""
    monkeypatch.setattr(figures, "render", rendering)
