"""Our sweep as somebody uses it who is to ship models of certain sizes, not to draw a front.

    python chooser.py SPEC.json       run by search_race.py

``gcp-sweep run`` until ``polish_s`` seconds before the ``deadline``, then Ctrl-C. ``gcp-analyze select`` names the model
of the highest validation accuracy at or below each of the ``shares`` of the MACs, and ``gcp-sweep polish`` trains each of
them on for ``epochs`` epochs, the smallest first. A polish runs in one process and holds the sweep, so one core rests
meanwhile. What is not finished at the ``deadline`` is killed and does not count.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: A command that was started so late would not come to anything.
LEAST_S = 1.0


def program(name: str) -> str:
    """A command of the environment that runs this."""
    return str(Path(sys.executable).with_name(name))


def search(config: Path, until: float) -> None:
    """Run the sweep of a config until a moment, unless it ends before; whatever is open then can be gone on with.

    Raises:
        SystemExit: it failed.
    """
    sweep = subprocess.Popen([program("gcp-sweep"), "run", str(config)])
    try:
        code = sweep.wait(max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        sweep.send_signal(signal.SIGINT)
        sweep.wait()
        return
    if code:
        raise SystemExit(f"the sweep ended with code {code}")


def choose(folder: Path, shares: list[float]) -> list[str]:
    """The best models at or below the shares of the MACs, the smallest first, each once; none where none is so small."""
    found: list[str] = []
    for share in sorted(shares):
        ask = ["select", str(folder), f"macs <= {share:.0%}", "--best", "accuracy", "--json"]
        answer = subprocess.run([program("gcp-analyze"), *ask], stdout=subprocess.PIPE, check=False)
        if answer.returncode == 0:  # else nothing is so small
            model = json.loads(answer.stdout)["chosen"][0]["model"]
            found += [model] if model not in found else []
    return found


def polish(folder: Path, models: list[str], epochs: int, deadline: float) -> None:
    """Train models on, one after the other, until the deadline."""
    for model in models:
        left = deadline - time.time()
        if left < LEAST_S:
            return
        try:
            command = [program("gcp-sweep"), "polish", str(folder), model, f"train.epochs={epochs}"]
            subprocess.run(command, timeout=left, check=True)
        except subprocess.TimeoutExpired:
            return


def main(spec: dict[str, Any]) -> None:
    """Search, choose, polish."""
    folder = Path(spec["folder"])
    search(Path(spec["config"]), spec["deadline"] - spec["polish_s"])
    models = choose(folder, spec["shares"])
    print(f"chosen: {', '.join(models) or 'none'}", flush=True)
    polish(folder, models, spec["epochs"], spec["deadline"])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
