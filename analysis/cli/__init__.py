"""``gcp-analyze``: one file per family of commands. Only click is imported until a command runs."""

from analysis.cli.program import main

__all__ = ["main"]
