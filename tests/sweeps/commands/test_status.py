"""What `gcp-sweep status` says of paths that rest, and of a sweep whose driver is gone."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from sweeps.cli import main
from sweeps.commands.status import sweep_status
from sweeps.records.folder import Entry, existing_entry, write_config, write_entry
from sweeps.records.job import Outcome, Snap
from sweeps.records.ledger import Ledger
from sweeps.strategy.paths.choice import Verdict
from sweeps.strategy.paths.gain import Promise
from tests.sweeps.inline import OF_PATHS, config

SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "sweep" / "status.json"
WHY = "t0001@2 promises 0.1 % of hypervolume per dense epoch, a new path 0.4"

SAID = "waits after t0001@2: continuing promised 0.1 points of hypervolume per dense epoch, a new path 0.4"


def _sweep(tmp_path: Path, resting: int = 1, state: str = "interrupted") -> Path:
    """t0000 has ended, t0001 ... rest at @2, the last one runs again."""
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 20})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    write_entry(folder, Entry("aaaa", checked.name, None, checked.name, "r", checked.digest(), state))
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    verdict = Verdict("pause", "t0001", Promise(0.001, 1.0, 1), Promise(0.004, 1.0, 1), "a new path", WHY)
    finals = {"val_accuracy": 90.0, "macs": 10.0, "epochs": 4.0}
    for number in range(resting + 2):
        job = ledger.add("trial", checked.space.resolve(checked.space.first()), {}, {})
        for level in range(3):
            ledger.add_snapshot(job, Snap(level, 2 + level, finals), (90.0, 10.0), {})
        if number == 0:
            ledger.close(job, Outcome("complete", finals, ended="target"), (90.0, 10.0))
            continue
        ledger.decide(job, 1, Verdict("go_on", "t0001", reason="goes on").to_dict())
        ledger.decide(job, 2, verdict.to_dict())
        ledger.pause(job, Outcome("paused", finals, ended="paused"))
    ledger.resume(job)
    return folder


def _call(*words: str) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_baseline_that_the_budget_of_a_complete_sweep_withheld_is_no_interrupted_one(tmp_path):
    checked = config(tmp_path)
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    unpruned = checked.space.resolve(checked.space.first()).baseline()
    trained, _withheld = (ledger.add("baseline", unpruned, {}, {}) for _ in range(2))
    ledger.close(trained, Outcome("complete", {"val_accuracy": 95.0}), (95.0,))
    entry = Entry("aaaa", checked.name, None, checked.name, "r", checked.digest(), "complete")
    write_entry(folder, entry)
    assert sweep_status(folder).baselines == {"complete": 1}
    write_entry(folder, dataclasses.replace(entry, state="interrupted"))
    assert sweep_status(folder).baselines == {"complete": 1, "running": 1}


def test_confirmation_runs_are_counted_apart_and_one_that_failed_is_listed(tmp_path):
    checked = config(tmp_path, {"confirm.seeds": 3})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    trial = checked.space.resolve(checked.space.first())
    failed, ended, _running = (ledger.add("confirm", trial, {}, {}) for _ in range(3))
    ledger.close(failed, Outcome("failed", error="ValueError: no such thing"))
    ledger.close(ended, Outcome("complete", {"val_accuracy": 90.0}), (90.0, 10.0))
    write_entry(folder, Entry("aaaa", checked.name, None, checked.name, "r", checked.digest(), "interrupted"))
    text = _call("status", str(folder), "--failed")
    assert "fresh seeds  1 complete, 1 failed, 1 interrupted\n" in text
    assert "c0000 failed: ValueError: no such thing" in text
    answer = json.loads(_call("status", str(folder), "--json"))
    jsonschema.validate(answer, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert answer["confirmations"] == {"complete": 1, "failed": 1, "running": 1}
    assert (answer["trials"], answer["statuses"]) == (0, {})


def test_a_resting_path_is_counted_and_says_after_which_model_and_why(tmp_path):
    folder = _sweep(tmp_path)
    text = _call("status", str(folder))
    assert "trials     1 of 4 ended: 1 complete, 1 interrupted, 1 paused" in text
    assert f"  paused     1, each after its last model:\n    {SAID}\n" in text
    answer = json.loads(_call("status", str(folder), "--json"))
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    (one,) = answer["paused"]
    assert (one["trial_id"], one["model"], one["reason"]) == ("t0001", "t0001@2", WHY)
    assert one["decision"]["promise"]["rate"] == 0.1
    assert one["decision"]["other_name"] == "a new path"


def test_a_hundred_resting_paths_do_not_fill_the_screen(tmp_path):
    folder = _sweep(tmp_path, 15)
    text = _call("status", str(folder))
    assert text.count(SAID.removeprefix("waits after t0001")) == 12
    assert "and 3 more: --json lists all of them" in text
    assert len(json.loads(_call("status", str(folder), "--json"))["paused"]) == 15


def _ended_process() -> int:
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    return gone


def test_a_sweep_whose_driver_went_with_another_machine_says_for_how_long_there_was_no_sign_of_life(tmp_path):
    """The ledger still says that it runs, and nobody here can ask the machine; a trial that runs has a heartbeat."""
    folder, hour = _sweep(tmp_path, state="running"), 3600
    (folder / "run.lock").write_text("process 7 on head")
    lock = folder / "trials" / "t0002" / ".lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    then = lock.stat().st_mtime - 14 * hour
    for file in (folder / "sweep.json", folder / "journal.log", folder / "run.lock"):
        os.utime(file, (then, then))
    assert sweep_status(folder).message == ""
    os.utime(lock, (then, then))
    assert sweep_status(folder).message == (
        "no sign of life for 14 h 00 min: its driver, process 7 on head, may be gone, and then `gcp-sweep run` continues"
        " it"
    )
    assert sweep_status(folder).state == "running"


def test_a_sweep_whose_driver_died_is_interrupted_and_says_how_to_go_on(tmp_path):
    folder, gone = _sweep(tmp_path, state="running"), _ended_process()
    (folder / "run.lock").write_text(f"process {gone} on {socket.gethostname()}")
    text = _call("status", str(folder))
    assert text.startswith(f"inline: interrupted (the driver, process {gone}, died)\n")
    assert f"  continue   gcp-sweep run {folder}/config.yaml\n" in text
    assert "1 complete, 1 interrupted, 1 paused" in text
    assert "running" not in text.replace("of running trials", "")
    answer = json.loads(_call("status", str(folder), "--json"))
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    assert answer["state"] == "interrupted"
    assert answer["message"] == f"the driver, process {gone}, died"
    assert answer["continue_with"] == f"gcp-sweep run {folder}/config.yaml"
    assert answer["statuses"] == {"complete": 1, "paused": 1, "running": 1}, "as the ledger has them"


@pytest.mark.parametrize("host", [socket.gethostname(), "another-machine"])
def test_a_sweep_whose_driver_may_live_is_running(tmp_path, host):
    folder = _sweep(tmp_path, state="running")
    (folder / "run.lock").write_text(f"process {os.getpid()} on {host}")
    text = _call("status", str(folder))
    assert text.startswith("inline: running\n")
    assert "continue" not in text
    assert "1 complete, 1 paused, 1 running" in text
    assert json.loads(_call("status", str(folder), "--json"))["continue_with"] == ""


@pytest.mark.parametrize(("state", "goes_on"), [("interrupted", True), ("failed", True), ("complete", False)])
def test_a_sweep_that_is_not_complete_says_which_command_goes_on(tmp_path, state, goes_on):
    folder = _sweep(tmp_path, state=state)
    text = _call("status", str(folder))
    assert (f"  continue   gcp-sweep run {folder}/config.yaml\n" in text) is goes_on


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_sweep_that_ran_on_a_cluster_goes_on_there(tmp_path, state):
    folder = _sweep(tmp_path, state=state)
    (folder / "run.lock").write_text(f"process {_ended_process()} on {socket.gethostname()}")
    write_entry(folder, dataclasses.replace(existing_entry(folder), address="ray://head:10001"))
    again = f"gcp-sweep run {folder}/config.yaml --address ray://head:10001"
    assert f"  continue   {again}\n" in _call("status", str(folder))
    assert json.loads(_call("status", str(folder), "--json"))["continue_with"] == again
