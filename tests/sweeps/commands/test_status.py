"""What `gcp-sweep status` says of paths that rest."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from click.testing import CliRunner

from sweeps.cli import main
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.job import Outcome, Snap
from sweeps.records.ledger import Ledger
from sweeps.strategy.choice import Verdict
from sweeps.strategy.gain import Promise
from tests.sweeps.inline import OF_PATHS, config

SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "sweep" / "status.json"
WHY = "t0001@2 promises 0.1 % of hypervolume per dense epoch, a new path 0.4"

SAID = "waits after t0001@2: going on promised 0.1 points of hypervolume per dense epoch, a new path 0.4"


def _sweep(tmp_path: Path, resting: int = 1) -> Path:
    """t0000 has ended, t0001 ... rest at @2, the last one runs again."""
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 20})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    write_entry(folder, Entry("aaaa", checked.name, None, checked.name, "r", checked.digest(), "interrupted"))
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


def test_a_resting_path_is_counted_and_says_after_which_model_and_why(tmp_path):
    folder = _sweep(tmp_path)
    text = _call("status", str(folder))
    assert "trials     1 of 4 ended: 1 complete, 1 paused, 1 running" in text
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
