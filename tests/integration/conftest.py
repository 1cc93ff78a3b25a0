"""Fixtures of several test files of this room."""

from __future__ import annotations

from tests.pictures import rendered, rendering
from tests.timings import short_timings

__all__ = ["rendered", "rendering", "short_timings"]
