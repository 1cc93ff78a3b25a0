"""The fake runner with faults: what the integration test of faults runs on Ray. A file of its own, because each of a
dozen processes imports it.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.sweeps import fake_runner


def faulty(config, *, report=None, checkpoint_dir=None):
    """Interval 1 hangs once after its second epoch, 2 loses its process after every epoch but the last, 3 before it has
    reported its second one, 4 takes for ever.
    """
    interval = config.prune.interval if config.prune is not None else 0
    resumed = (Path(checkpoint_dir) / "epochs.jsonl").exists()

    def passed_on(row):
        if interval == 3 and row.epoch == 2:
            # This epoch leaves no checkpoint.
            (Path(checkpoint_dir) / "epochs.jsonl").write_text('{"epoch": 1}\n')
            os.kill(os.getpid(), signal.SIGKILL)
        report(row)
        if interval == 2 and row.epoch < 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if (interval == 1 and row.epoch == 2 and not resumed) or (interval == 4 and row.epoch == 3):
            threading.Event().wait()

    return fake_runner.run(config, report=passed_on, checkpoint_dir=checkpoint_dir)
