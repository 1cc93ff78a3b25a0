"""Our programs, as a user calls them; and a sweep without Ray, where it only has to be there."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from analysis.show.publish import publish
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.ledger import Ledger
from sweeps.storage.exchange import Exchange
from sweeps.tracking.writer import open_writer
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.prepared import with_store
from tests.sweeps.inline import Silent, drive

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


def sweep_in_process(checked: SweepConfig) -> Path:
    """Run a sweep in this process, one trial after the other, with MLflow and everything else; its folder."""
    folder = with_store(Path(checked.folder))
    write_config(folder, checked)
    writer = open_writer(checked, folder, "0123456789ab")
    run = writer.run
    entry = Entry("0123456789ab", checked.name, run.uri, run.experiment, run.run_id, checked.digest())
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    conductor = Conductor(checked, ledger, writer, Silent(), exchange=Exchange(folder))
    drive(conductor, DEFAULT_RUNNER)
    assert conductor.complete
    assert writer.close("FINISHED") == 0
    write_entry(folder, dataclasses.replace(entry, state="complete", trials=len(ledger.records("trial"))))
    publish(folder)
    return folder
