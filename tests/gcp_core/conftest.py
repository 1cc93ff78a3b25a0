"""Fixtures of several test files of this room."""

from __future__ import annotations

from tests.timings import short_timings

__all__ = ["short_timings"]
