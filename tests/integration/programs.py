"""Our programs, as a user calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

PROGRAMS = Path(sys.executable).parent


def process(*words: str, code: int = 0) -> str:
    """Standard output of one of our programs, in a process of its own."""
    done = subprocess.run([PROGRAMS / words[0], *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def invoke(*words: str) -> Result:
    """The same command in this process: a new one takes seconds to import what is imported here."""
    if words[0] == "gcp-sweep":
        from sweeps.cli import main
    else:
        from analysis.cli.program import main
    return CliRunner().invoke(main, list(words[1:]))


def call(*words: str, code: int = 0) -> str:
    """Standard output of one of our commands, called in this process."""
    done = invoke(*words)
    assert done.exit_code == code, f"{done.output}{done.exception!r}"
    return done.stdout


def run_sweep(folder: Path, config: str) -> Path:
    """Run the config (its name is ``way``) with its storage in ``folder``; the sweep's folder."""
    (folder / "way.yaml").write_text(config)
    process("gcp-sweep", "run", str(folder / "way.yaml"), f"storage={folder}")
    return folder / "way"
