"""Fixtures of several test files of this room."""

from __future__ import annotations

from tests.pictures import rendered, rendering

__all__ = ["rendered", "rendering"]
