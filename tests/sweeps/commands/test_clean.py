"""What `gcp-sweep clean` removes, keeps and says; what `gcp-sweep stop` does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gcp_core.errors import ConfigError
from sweeps.cli import main
from sweeps.commands.clean import clean, front_of, size_of
from sweeps.records.folder import Entry, write_config, write_entry
from sweeps.records.job import Outcome, Record
from sweeps.records.ledger import Ledger
from sweeps.storage.lock import driver_of, request_stop, run_lock, stop_requested
from tests.oracles.sweeps.dominance import dominates
from tests.sweeps.inline import OF_PATHS, PATHS, config, drive, new_conductor

ROOT = Path(__file__).parents[3]


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def _put(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def _sweep(tmp_path: Path, state: str = "complete", trials: int = 6) -> tuple[Path, list[Record]]:
    """A played sweep whose folder holds what a real one would: weights twice, stages, leftovers."""
    checked = config(tmp_path, {"search.trials": trials})
    conductor, _, _ = new_conductor(checked)
    drive(conductor)
    folder = Path(checked.folder)
    write_config(folder, checked)
    store = f"sqlite:///{folder}/mlflow.db"
    write_entry(folder, Entry("0123456789ab", checked.name, store, "e", "run", checked.digest(), state))
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    records = [*ledger.records("baseline"), *ledger.records("trial")]
    for number, record in enumerate(records):
        _put(Path(record.job.folder) / "model" / "weights.pt", 1000)
        _put(Path(record.job.folder) / "model" / "manifest.json", 10)
        copy = folder / "mlartifacts" / f"{number:032x}" / "artifacts" / "model"
        _put(copy / "weights.pt", 1000)
        (copy / "manifest.json").write_text(json.dumps({"config_key": record.key}))
    _put(folder / "stages" / "abc" / "state.pt", 500)
    _put(folder / ".tune" / "experiment" / "x", 50)
    _put(Path(records[1].job.folder) / "epochs" / "epoch_0001" / "state.pt", 5)
    with run_lock(folder):
        pass  # its file stays, as a driver's does
    return folder, records


def _weights(folder: Path) -> set[str]:
    return {path.parents[1].name for path in (folder / "trials").glob("*/model/weights.pt")}


def test_stages_scratch_and_leftover_checkpoints_go_and_weights_stay(tmp_path: Path) -> None:
    folder, records = _sweep(tmp_path)
    before = size_of(folder)
    cleaned = clean(folder)
    assert cleaned.removed == {"stages": 500, ".tune": 50, "trials/t0000/epochs": 5}
    assert cleaned.bytes == before - size_of(folder) == 555
    assert _weights(folder) == {record.job.trial_id for record in records}
    assert clean(folder).bytes == 0


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path)
    before = sorted(folder.rglob("*"))
    dry = clean(folder, "front", dry_run=True)
    assert sorted(folder.rglob("*")) == before
    assert dry.removed == clean(folder, "front").removed
    assert "would free" in dry.text()


def test_keep_front_leaves_front_and_baseline_and_drops_the_copies_of_the_rest(tmp_path: Path) -> None:
    folder, records = _sweep(tmp_path)
    trials = [record for record in records if record.job.kind == "trial"]
    costs = {record.job.trial_id: (-record.values[0], record.values[1]) for record in trials}
    front = {a for a, x in costs.items() if not any(dominates(y, x) for y in costs.values())}
    assert 0 < len(front) < len(trials)
    cleaned = clean(folder, "front")
    assert _weights(folder) == {"b0000", *front} == set(cleaned.kept_weights)
    copies = {json.loads((p.parent / "manifest.json").read_text())["config_key"] for p in _copies(folder)}
    assert copies == {record.key for record in records if record.job.trial_id in {"b0000", *front}}
    assert all((Path(record.job.folder) / "model" / "manifest.json").exists() for record in records)
    assert cleaned.bytes == 555 + 2 * 1000 * (len(records) - len(front) - 1)


def _copies(folder: Path) -> list[Path]:
    return list((folder / "mlartifacts").glob("*/artifacts/model/weights.pt"))


def test_keep_none_leaves_no_weights(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path)
    clean(folder, "none")
    assert _weights(folder) == set()
    assert _copies(folder) == []


def test_an_unfinished_trial_keeps_its_checkpoints(tmp_path: Path) -> None:
    checked = config(tmp_path)
    conductor, _, _ = new_conductor(checked)
    job = conductor.next_job()
    folder = Path(checked.folder)
    write_config(folder, checked)
    write_entry(folder, Entry("0123456789ab", checked.name, None, "e", "run", checked.digest()))
    _put(Path(job.folder) / "epochs" / "epoch_0001" / "state.pt", 5)
    assert clean(folder, "none").removed == {}


def test_the_front_is_empty_as_long_as_nothing_is_complete(tmp_path: Path) -> None:
    assert front_of(config(tmp_path), []) == set()


def test_weights_on_a_server_are_named_with_the_way_to_delete_them(tmp_path: Path) -> None:
    import shutil

    folder, _ = _sweep(tmp_path)
    shutil.rmtree(folder / "mlartifacts")
    text = clean(folder, "front").text()
    assert "MLflow keeps its own copies of the weights at sqlite:///" in text
    assert "`mlflow gc`" in text


def test_a_running_sweep_is_not_cleaned(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path)
    with run_lock(folder):
        done = _call("clean", str(folder))
    assert done.exit_code == 2
    assert "another driver is running the sweep: process" in done.stderr
    assert (folder / "stages").exists()


def test_the_command_has_json_and_a_sentence(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path)
    answer = json.loads(_call("clean", str(folder), "--dry-run", "--json").stdout)
    assert (answer["bytes"], answer["dry_run"], answer["keep"]) == (555, True, "all")
    assert "freed 0.00 MB (555 bytes)" in _call("clean", str(folder)).stdout
    assert _call("clean", str(tmp_path)).exit_code == 2
    with pytest.raises(ConfigError, match="'best' is unknown"):
        clean(folder, "best")


# --- stop ---------------------------------------------------------------------------------------------------------

#: A driver that does what the searcher's stopper does: it looks for the request.
DRIVER = """
import sys
from pathlib import Path
from sweeps.storage.lock import run_lock, stop_requested
folder = Path(sys.argv[1])
with run_lock(folder):
    print("held", flush=True)
    while not stop_requested(folder):
        pass
"""


def test_stop_says_so_if_nobody_runs_the_sweep(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path)
    done = _call("stop", str(folder))
    assert (done.exit_code, done.stdout) == (0, "nothing to stop: inline is not running (complete)\n")
    assert not stop_requested(folder)
    answer = json.loads(_call("stop", str(folder), "--json").stdout)
    assert answer == {"running": False, "stopped": False, "driver": None, "state": "complete"}


def test_stop_of_a_killed_driver_says_how_to_continue(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path, state="running")
    done = _call("stop", str(folder))
    assert done.exit_code == 0
    assert "nobody holds its lock: its driver was killed" in done.stdout
    assert "`gcp-sweep run` continues" in done.stdout


def test_stop_ends_the_driver_and_waits_for_it(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path, state="running")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout.readline() == "held\n"
    who = driver_of(folder)
    assert who.startswith(f"process {driver.pid} on ")
    done = _call("stop", str(folder))
    assert driver.wait() == 0
    assert done.exit_code == 0
    assert done.stdout == f"{who} has ended; inline is running\n"
    assert driver_of(folder) is None
    assert not stop_requested(folder), "the next driver must not find it"


def test_a_driver_that_does_not_end_in_time_is_exit_code_1(tmp_path: Path) -> None:
    folder, _ = _sweep(tmp_path, state="running")
    with run_lock(folder):
        done = _call("stop", str(folder), "--wait", "0")
        assert stop_requested(folder)
    assert done.exit_code == 1
    assert "was asked to end, and is still running after 0 s" in done.stdout


def test_a_new_driver_forgets_a_request_that_was_meant_for_a_killed_one(tmp_path: Path) -> None:
    request_stop(tmp_path)
    with run_lock(tmp_path):
        assert not stop_requested(tmp_path)


def test_stop_of_a_folder_without_a_sweep_is_exit_code_2(tmp_path: Path) -> None:
    assert _call("stop", str(tmp_path)).exit_code == 2


def test_of_a_path_the_weights_of_snapshots_off_the_front_go(tmp_path: Path) -> None:
    """Two paths of four snapshots; the one with longer cycles is better at every level, in the fake."""
    conductor, _, ledger = new_conductor(config(tmp_path, {**OF_PATHS, "search.trials": 2}))
    drive(conductor, PATHS)
    folder = Path(conductor.config.folder)
    write_config(folder, conductor.config)
    write_entry(
        folder, Entry("aaaa", conductor.config.name, None, conductor.config.name, "r", "d", "complete")
    )
    better = max(ledger.records("trial"), key=lambda record: record.job.config.prune.interval).job.trial_id

    def left() -> set[str]:
        found = (folder / "trials").glob("*/snapshots/*/weights.pt")
        return {f"{path.parents[2].name}@{int(path.parent.name)}" for path in found}

    copies = {}
    for record in ledger.records("trial"):
        for level in range(4):
            model = folder / "mlartifacts" / f"{record.job.trial_id}-{level}" / "artifacts" / "model"
            _put(model / "weights.pt", 10)
            about = {"config_key": record.key, "snapshot": {"level": level}}
            (model / "manifest.json").write_text(json.dumps(about))
            copies[f"{record.job.trial_id}@{level}"] = model / "weights.pt"
    every = {f"t000{trial}@{level}" for trial in range(2) for level in range(4)}
    assert left() == every
    assert set(clean(folder, "all").kept_weights) == every
    counted = clean(folder, "front", dry_run=True)
    assert left() == every
    cleaned = clean(folder, "front")
    assert cleaned.removed.keys() == counted.removed.keys()
    assert left() == set(cleaned.kept_weights) == {f"{better}@{level}" for level in range(4)}
    assert {name for name, file in copies.items() if file.exists()} == left(), "MLflow's copies go alike"
    assert all(
        (folder / "trials" / "t0000" / "snapshots" / f"0{k}" / "manifest.json").exists() for k in range(4)
    )
    clean(folder, "none")
    assert left() == set()


def _paths(tmp_path: Path, state: str = "complete") -> Path:
    """A sweep of two paths that came to their target; each has left a state."""
    conductor, _, ledger = new_conductor(config(tmp_path, {**OF_PATHS, "search.trials": 2}))
    drive(conductor, PATHS)
    folder = Path(conductor.config.folder)
    write_config(folder, conductor.config)
    write_entry(folder, Entry("aaaa", conductor.config.name, None, conductor.config.name, "r", "d", state))
    for record in ledger.records("trial"):
        _put(Path(record.job.folder) / "epochs" / "epoch_0004" / "state.pt", 30)
    return folder


def test_states_of_paths_that_may_go_on_stay_unless_asked_for_and_are_counted(tmp_path: Path) -> None:
    folder = _paths(tmp_path)
    states = {"trials/t0000/epochs": 30, "trials/t0001/epochs": 30}
    cleaned = clean(folder)
    assert (cleaned.removed, cleaned.kept_states) == ({}, states)
    assert (
        "training states kept of 2 paths, 0.00 MB: a raised target continues from them (--states removes them;"
        " training then restarts from the nearest shared state)"
    ) in cleaned.text()
    assert clean(folder, dry_run=True, states=True).removed == states
    assert (folder / "trials/t0001/epochs").exists()
    answer = json.loads(_call("clean", str(folder), "--states", "--json").stdout)
    assert (answer["removed"], answer["kept_states"]) == (states, {})
    assert not list(folder.glob("trials/*/epochs"))
    assert "training states" not in clean(folder).text()


def test_states_of_an_unfinished_sweep_are_refused(tmp_path: Path) -> None:
    folder = _paths(tmp_path, "interrupted")
    done = _call("clean", str(folder), "--states")
    assert done.exit_code == 2
    assert (
        "--states: the sweep is interrupted and continues from these states (finish it with gcp-sweep run"
        in done.stderr
    )
    assert len(list(folder.glob("trials/*/epochs"))) == 2


def test_a_resting_path_keeps_its_state_and_loses_weights_off_the_front(tmp_path: Path) -> None:
    """A killed driver leaves a path that rests; the other path is better at every level, in the fake."""
    conductor, _, ledger = new_conductor(config(tmp_path, {**OF_PATHS, "search.trials": 2}))
    drive(conductor, PATHS)
    folder, records = Path(conductor.config.folder), ledger.records("trial")
    worse = min(records, key=lambda record: record.job.config.prune.interval)
    resumed = ledger.resume(worse.job)
    ledger.pause(resumed, Outcome("paused", worse.finals, ended="paused", part=1))
    write_config(folder, conductor.config)
    write_entry(folder, Entry("aaaa", conductor.config.name, None, conductor.config.name, "r", "d"))
    _put(folder / "trials" / worse.job.trial_id / "epochs" / "epoch_0004" / "state.pt", 30)
    cleaned = clean(folder, "front")
    assert set(cleaned.kept_states) == {f"trials/{worse.job.trial_id}/epochs"}
    left = {path.parents[2].name for path in folder.glob("trials/*/snapshots/*/weights.pt")}
    assert left == {record.job.trial_id for record in records} - {worse.job.trial_id}
