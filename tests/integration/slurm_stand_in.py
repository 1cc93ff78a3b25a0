"""Slurm's ``srun`` and ``scontrol`` as far as ``deploy/slurm.sbatch`` uses them; every node is this machine.

Called by the name of the command. Steps leave their process id in ``$STAND_IN/NODE.step``, and what was asked of
``scontrol`` lies in ``$STAND_IN/scontrol``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN"])


def srun(words: list[str]) -> int:
    """Run the command as a step; told to end, end everything that it started."""
    node = next(word.partition("=")[2] for word in words if word.startswith("--nodelist="))
    command = words[next(i for i, word in enumerate(words) if not word.startswith("--")) :]
    process = subprocess.Popen(command, env={**os.environ, "SLURMD_NODENAME": node}, start_new_session=True)

    signal.signal(signal.SIGTERM, lambda *_: os.killpg(process.pid, signal.SIGTERM))
    (FOLDER / f"{node}.step").write_text(str(process.pid))
    code = process.wait()
    with contextlib.suppress(ProcessLookupError):  # a step leaves nothing behind
        os.killpg(process.pid, signal.SIGKILL)
    return abs(code)


def scontrol(words: list[str]) -> int:
    with (FOLDER / "scontrol").open("a") as log:
        log.write(" ".join(words) + "\n")
    if words[:2] == ["show", "hostnames"]:
        print("\n".join(words[2].split(",")))
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
