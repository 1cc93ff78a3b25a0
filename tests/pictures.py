"""Fixtures for tests of what draws pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from analysis.show import figures

#: As it is before any folder of tests replaces it: two of them do.
RENDER = figures.render


@pytest.fixture(scope="session", autouse=True)
def rendering() -> Iterator[Callable[..., None]]:
    """Figures are made and their CSV is written, but PNG and SVG stay empty: pictures are most of the time of a report.
    A test that is about pictures asks for ``rendered``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "render", lambda figure, *files: [file.touch() for file in files])
        yield RENDER


@pytest.fixture
def rendered(rendering: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG and SVG are really drawn."""
    monkeypatch.setattr(figures, "render", rendering)
