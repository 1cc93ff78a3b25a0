"""Our programs, as a user calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(sys.executable).parent


def call(*words: str, code: int = 0) -> str:
    """Standard output of one of our programs."""
    done = subprocess.run([PROGRAMS / words[0], *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def run_sweep(folder: Path, config: str) -> Path:
    """Run the config (its name is ``way``) with its storage in ``folder``; the sweep's folder."""
    (folder / "way.yaml").write_text(config)
    call("gcp-sweep", "run", str(folder / "way.yaml"), f"storage={folder}")
    return folder / "way"
