"""Training a chosen snapshot on: a new model of the sweep, in its ledger and in MLflow, of nobody else's making."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import sweeps.commands.polish as command
from gcp_core.errors import ConfigError
from gcp_core.records.checkpoint import load_model, read_manifest, weights_digest
from gcp_core.schema import FRONT_HYPERVOLUME, SNAPSHOT, Tag
from sweeps.commands.clean import clean
from sweeps.commands.polish import polish
from sweeps.commands.replay import replay
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import Entry, read_config, write_config, write_entry
from sweeps.records.ledger import Ledger
from sweeps.storage.exchange import ObjectExchange
from sweeps.storage.lock import request_stop, stop_requested
from sweeps.strategy.sampling import Proposer
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.sweeps.commands.polish.polishing import SCHEMA, TREE, call, entered, made, runs, weights
from tests.sweeps.inline import drive, new_conductor

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def polished(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[command.Polish, Path]:
    """``t0000@1`` polished for two epochs, in a sweep of its own; nobody writes there."""
    folder = shutil.copytree(swept, tmp_path_factory.mktemp("polished") / "paths")
    return polish(folder, "t0000@1", 2), folder


def test_a_polished_model_is_entered_in_the_ledger_judged_like_any_snapshot(polished):
    done, folder = polished
    assert (done.model, done.snapshot, done.status) == ("t0000@1+2", "t0000@1", "complete")
    assert (done.trained_epochs, done.unwritten) == (2, 0)
    known = entered(folder)
    assert set(known) == {f"t000{t}@{k}" for t in range(2) for k in range(3)} | {"t0000@1+2"}
    mine, source = known["t0000@1+2"], known["t0000@1"]
    assert (mine.snap.level, mine.snap.epoch, mine.snap.polish) == (1, 6, 2)
    assert mine.snap.finals == done.finals
    assert source.snap.finals == done.before
    assert mine.values == (done.finals["val_accuracy"], done.finals["macs"])
    assert mine.snap.weights_sha256 == done.weights_sha256 != source.snap.weights_sha256
    config = read_config(folder)
    (baseline,) = Ledger(folder, "paths", config.search.objectives).records("baseline")
    drop = baseline.finals["val_accuracy"] - done.finals["val_accuracy"]
    assert done.finals["accuracy_drop"] == pytest.approx(drop, abs=1e-9)
    share = done.finals["macs"] / baseline.finals["macs"]
    assert done.finals["train_cost"] == pytest.approx(done.before["train_cost"] + 2 * share)
    assert mine.snap.provenance["torch"] == version("torch")
    assert len(mine.snap.provenance["data_digest"]) > 8
    assert weights_digest(load_model(done.folder).state_dict()) == done.weights_sha256


def test_in_mlflow_it_is_a_run_below_its_paths_with_the_curve_of_its_polish(polished):
    done, folder = polished
    client, found = runs(folder)
    mine, source, path = (found[name] for name in ("t0000@1+2", "t0000@1", "t0000"))
    tags = mine.data.tags
    assert (tags[Tag.PARENT], tags[Tag.KIND]) == (path.info.run_id, SNAPSHOT)
    assert (tags[Tag.MODEL_ID], tags[Tag.TRIAL_ID]) == ("t0000@1+2", "t0000")
    assert (tags[Tag.LEVEL], tags[Tag.POLISH], tags[Tag.EPOCH]) == ("1", "2", "6")
    assert (tags[Tag.WEIGHTS], tags[Tag.STATUS]) == (done.weights_sha256, "complete")
    assert f"torch={version('torch')}" in tags[Tag.VERSIONS]
    assert Tag.POLISH not in source.data.tags
    assert mine.info.status == "FINISHED"
    assert mine.data.params == source.data.params
    assert {key: mine.data.metrics[f"final/{key}"] for key in done.finals} == done.finals
    assert len(mine.data.metrics) <= 24
    curve = client.get_metric_history(mine.info.run_id, "val/accuracy")
    assert [point.step for point in curve] == [5, 6]
    assert curve[0].timestamp <= curve[1].timestamp <= mine.info.end_time
    assert not client.get_metric_history(source.info.run_id, "val/accuracy")
    files = {file.path for file in client.list_artifacts(mine.info.run_id, "model")}
    assert files == {"model/manifest.json", "model/weights.pt"}


def test_front_tags_figures_and_the_parent_are_renewed_and_the_sweep_is_as_complete_as_before(
    polished, swept
):
    folder = polished[1]
    client, found = runs(folder)
    parent = found["paths"]
    assert parent.info.status == "FINISHED"
    assert {found["t0000@1+2"].data.tags[Tag.FRONT], found["t0000@1"].data.tags[Tag.FRONT]} <= {
        "true",
        "false",
    }
    assert "t0000@1+2" in (folder / "report" / "front_macs.csv").read_text()
    # Seven snapshots, one of them polished; the dense ones of both paths are one model.
    assert client.get_metric_history(parent.info.run_id, FRONT_HYPERVOLUME)[-1].step == 6
    assert json.loads((folder / "sweep.json").read_text())["state"] == "complete"
    assert not (swept / "report").exists()


def test_polished_again_it_is_what_is_there_and_nothing_is_written_twice(polished, tmp_path):
    folder = shutil.copytree(polished[1], tmp_path / "paths")
    before = weights(folder, "01+2").stat().st_mtime_ns
    again = polish(folder, "t0000@1", 2)
    assert again == dataclasses.replace(
        polished[0], trained_epochs=0, folder=str(folder / "trials/t0000/snapshots/01+2"), sweep=str(folder)
    )
    assert weights(folder, "01+2").stat().st_mtime_ns == before
    assert len(runs(folder)[1]) == 11, "parent, baseline, two paths, six snapshots, one of them polished"
    assert "it already existed; nothing was trained" in again.text()


def test_another_number_of_epochs_is_another_model(polished, tmp_path, quiet):
    folder = shutil.copytree(polished[1], tmp_path / "paths")
    other = polish(folder, "t0000@1", 1)
    assert other.model == "t0000@1+1"
    assert other.weights_sha256 != polished[0].weights_sha256
    assert {"t0000@1+1", "t0000@1+2"} <= set(entered(folder))


def test_an_interrupted_polish_goes_on_and_ends_as_one_that_was_not(polished, folder, quiet):
    stopped = polish(folder, "t0000@1", 2, report=lambda row: request_stop(folder))
    assert (stopped.status, stopped.trained_epochs) == ("interrupted", 1)
    assert "the same command continues it" in stopped.text()
    assert not stop_requested(folder)
    assert len(entered(folder)) == 6
    done = polish(folder, "t0000@1", 2)
    assert (done.trained_epochs, done.weights_sha256) == (1, polished[0].weights_sha256)
    rows = [
        json.loads(line)
        for line in (folder / "trials/t0000/polish/01+2/reported.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in rows] == [5, 6]
    assert all("at" in row for row in rows)


@pytest.mark.parametrize("moment", ["add_snapshot", "_write"])
def test_what_was_killed_before_ledger_or_mlflow_is_entered_by_the_same_command(
    polished, folder, monkeypatch, moment
):
    class Killed(BaseException):
        pass

    def dies(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(command.Ledger if moment == "add_snapshot" else command, moment, dies)
        with pytest.raises(Killed):
            polish(folder, "t0000@1", 2)
    assert ("t0000@1+2" in entered(folder)) == (moment == "_write")
    again = polish(folder, "t0000@1", 2)
    assert again.trained_epochs == 0
    assert again.weights_sha256 == polished[0].weights_sha256
    client, found = runs(folder)
    curve = client.get_metric_history(found["t0000@1+2"].info.run_id, "val/accuracy")
    assert [point.step for point in curve] == [5, 6]


def test_the_sampler_does_not_learn_from_a_polished_model(polished, monkeypatch):
    """It has cost more than the point that it comes from says."""
    seen: list[Any] = []
    monkeypatch.setattr(Proposer, "observe", lambda self, *told: seen.append(told))
    conductor, _, _ = new_conductor(load_config(TREE, {"storage": str(polished[1].parent)}))
    values = [known.values for known in entered(polished[1]).values() if not known.snap.polish]
    assert len(seen) == 6
    assert sorted(told[1] for told in seen) == sorted(values)
    assert not conductor.has_work


def test_a_driver_that_goes_on_with_the_path_takes_no_polished_model_for_its_snapshot(folder, quiet):
    polish(folder, "t0000@2", 1)
    polish(folder, "t0000@0", 1)
    tree = read_config(folder).tree
    checked = load_config(tree, {"storage": str(folder.parent), "prune.target": 0.6})
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    record = ledger.records("trial")[0]
    from gcp_core.training import run_trial

    on = run_trial(
        dataclasses.replace(
            record.job.config, prune=dataclasses.replace(record.job.config.prune, target=0.6)
        ),
        checkpoint_dir=folder / "trials" / "t0000",
    )
    assert [s.level for s in on.snapshots] == [0, 1, 2, 3]
    assert weights(folder, "02+1").exists()


def test_a_snapshot_whose_weights_were_cleaned_is_refused_and_comes_back_as_the_message_says(
    polished, folder, quiet
):
    clean(folder, "none")
    done = call("polish", str(folder), "t0000@1", "train.epochs=2")
    assert done.exit_code == 2
    said = f"gcp-sweep replay {folder} t0000@1"
    assert "t0000@1: its weights were removed" in done.stderr
    assert said in done.stderr
    back = call(*said.split()[1:], "--json")
    assert back.exit_code == 0, back.output
    assert json.loads(back.stdout)["restored"] == ["t0000@1"]
    assert weights(folder, "01").exists()
    assert not weights(folder, "00").exists(), "only what was asked for"
    assert polish(folder, "t0000@1", 2).weights_sha256 == polished[0].weights_sha256


def test_a_polished_model_that_breaks_a_constraint_is_infeasible_and_entered(tmp_path, empty_store):
    folder = made(tmp_path, empty_store, **{"search.constraints": ["macs <= 60%"]})
    done = polish(folder, "t0000@1", 1)
    assert done.status == "infeasible"
    assert "violates a constraint" in done.text()
    known = entered(folder)["t0000@1+1"]
    assert known.violations["macs <= 60%"] > 0
    assert entered(folder)["t0000@2"].violations["macs <= 60%"] <= 0
    assert runs(folder)[1]["t0000@1+1"].data.tags[Tag.STATUS] == "infeasible"


def test_an_interrupted_sweep_stays_interrupted(tmp_path, empty_store):
    folder = made(tmp_path, empty_store, state="interrupted")
    polish(folder, "t0001@2", 1)
    assert runs(folder)[1]["paths"].info.status == "KILLED"
    assert json.loads((folder / "sweep.json").read_text())["state"] == "interrupted"


def test_the_command_prints_epochs_and_what_to_type_next_or_json(polished, tmp_path, monkeypatch, quiet):
    folder = shutil.copytree(polished[1], tmp_path / "paths")
    done = call("polish", str(folder), "t0000@0", "train.epochs=2")
    assert done.exit_code == 0, done.output
    assert [line[:10] for line in done.stderr.splitlines()] == ["epoch   3:", "epoch   4:"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("t0000@0+2: ")
    assert "at 100.0 % of the MACs (t0000@0: " in lines[0]
    assert lines[1] == "  4.0 dense epochs of training, 2.0 of them for the polish"
    assert lines[-1] == f"  gcp-analyze export {folder} --id t0000@0+2 --out t0000@0+2"
    schema = json.loads(SCHEMA.read_text())
    again = json.loads(call("polish", str(folder), "t0000@0", "train.epochs=2", "--json").stdout)
    jsonschema.validate(again, schema)
    monkeypatch.setattr(command, "stop_requested", lambda place: "enough")
    stopped = call("polish", str(folder), "t0000@0", "train.epochs=3", "--json")
    assert stopped.exit_code == 1
    jsonschema.validate(json.loads(stopped.stdout), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**again, "extra": 1}, schema)


def test_a_polished_model_and_a_snapshot_are_replayed_bit_by_bit(polished):
    before = sorted((path, path.stat().st_mtime_ns) for path in polished[1].rglob("*"))
    for name, epochs in (("t0000@1+2", {5, 6}), ("t0000@1", {1, 2, 3, 4}), ("t0001@0", {1, 2})):
        rows: list[Any] = []
        found = replay(polished[1], name, report=rows.append)
        assert (found.equal, found.changed, found.first_epoch) == (True, [], 0), found
        assert {row.epoch for row in rows} == epochs
    assert sorted((path, path.stat().st_mtime_ns) for path in polished[1].rglob("*")) == before


def test_a_polished_model_whose_snapshot_is_gone_is_replayed_from_the_paths_beginning(polished, tmp_path):
    folder = shutil.copytree(polished[1], tmp_path / "paths")
    assert weights(folder, "01+2").exists()
    clean(folder, "none")
    assert not list(folder.rglob("weights.pt")), "MLflow's copies go alike"
    rows: list[Any] = []
    found = replay(folder, "t0000@1+2", report=rows.append)
    assert (found.equal, found.restored) == (True, ["t0000@1+2"])
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [path.parent.name for path in folder.rglob("weights.pt")] == ["01+2"]
    assert weights_digest(load_model(weights(folder, "01+2")).state_dict()) == polished[0].weights_sha256


def test_a_replay_says_where_another_polish_begins_to_differ(polished, tmp_path):
    folder = shutil.copytree(polished[1], tmp_path / "paths")
    spool = folder / "trials/t0000/polish/01+2/reported.jsonl"
    rows = [json.loads(line) for line in spool.read_text().splitlines()]
    rows[1]["train/loss"] += 1
    spool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    journal = folder / "journal.log"
    journal.write_text(journal.read_text().replace(polished[0].weights_sha256, "f" * 64))
    found = replay(folder, "t0000@1+2")
    assert (found.equal, found.first_epoch, found.restored) == (False, 6, [])


def test_a_polish_that_is_not_there_is_named_with_the_command_that_makes_it(swept):
    done = call("replay", str(swept), "t0000@1+7")
    assert done.exit_code == 2
    assert "t0000@1 has not been polished for 7 epochs" in done.stderr
    assert "gcp-sweep polish SWEEP t0000@1 train.epochs=7" in done.stderr
    done = call("replay", str(swept), "t0000@7")
    assert "t0000@7: the path has 3 snapshots, t0000@0 .. t0000@2" in done.stderr


def test_clean_knows_a_polished_model_from_its_snapshot(polished, tmp_path):
    folder = shutil.copytree(polished[1], tmp_path / "paths")
    known = entered(folder)
    points = {name: np.array([-k.values[0], k.values[1]]) for name, k in known.items()}
    front = {
        name
        for name, p in points.items()
        if not any((q <= p).all() and (q < p).any() for q in points.values())
    }
    cleaned = clean(folder, "front")
    assert set(cleaned.kept_weights) == front | {"b0000"}
    assert ("t0000@1+2" in front) == weights(folder, "01+2").exists()
    assert ("t0000@1" in front) == weights(folder, "01").exists()
    assert len(list((folder / "mlartifacts").rglob("weights.pt"))) == len(front) + 1
    clean(folder, "none")
    assert not list(folder.rglob("weights.pt"))
    assert read_manifest(folder / "trials/t0000/snapshots/01+2")["polish"]["epochs"] == 2


def test_in_an_object_store_a_snapshot_is_polished_from_another_machine(
    s3, tmp_path, monkeypatch, quiet, polished
):
    """Its driver's machine is gone; the model and the ledger's entry are where everybody looks."""
    more = {
        "storage": s3,
        "ledger": str(tmp_path / "driver"),
        "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
    }
    checked = load_config(TREE, more)
    exchange = ObjectExchange(Path(checked.folder), checked.store)
    conductor, _, _ = new_conductor(checked, exchange)
    drive(conductor, DEFAULT_RUNNER)
    write_config(exchange.root, checked)
    entry = Entry("0123456789ab", "paths", None, "paths", None, checked.digest(), "complete", 2)
    write_entry(exchange.root, entry)
    exchange.send("config.yaml", "sweep.json", "journal.log")
    shutil.rmtree(tmp_path / "driver")
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    done = polish(checked.store, "t0000@1", 2)
    assert done.weights_sha256 == polished[0].weights_sha256
    assert done.folder.startswith(str(tmp_path / "cache"))
    with (
        exchange.present(lambda reason: None),
        pytest.raises(ConfigError, match="another driver is running the sweep"),
    ):
        polish(checked.store, "t0000@1", 1)
    shutil.rmtree(tmp_path / "cache")
    found = replay(checked.store, "t0000@1+2")
    assert (found.equal, found.changed) == (True, [])
    again = polish(checked.store, "t0000@1", 2)
    assert again.trained_epochs == 0
    for name in ("01", "01+2"):
        ObjectExchange(tmp_path, checked.store).remove(f"trials/t0000/snapshots/{name}/weights.pt")
        shutil.rmtree(tmp_path / "cache")
        whole = f"t0000@1{name[2:]}"
        assert replay(checked.store, whole).restored == [whole]
        assert exchange.has(f"trials/t0000/snapshots/{name}/weights.pt")
