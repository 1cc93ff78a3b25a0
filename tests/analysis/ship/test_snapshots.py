"""A snapshot of a real path: proven, exported, registered, found in MLflow, and named where its weights are gone."""

import json
import shutil

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

import analysis
from analysis.cli.program import main
from analysis.runs import store
from analysis.runs.artifacts import artifact_of
from analysis.runs.models import row_of
from analysis.runs.widths import layer_widths, manifest_of
from analysis.ship.export import export
from analysis.ship.register import register
from gcp_core.errors import ConfigError
from gcp_core.schema import ARTIFACT_MANIFEST, ARTIFACT_WEIGHTS, SNAPSHOT, Tag
from gcp_core.training.polish import polish
from tests.analysis.conftest import PATH
from tests.analysis.synthetic import FakeTrial, log_trial
from tests.proofs import proven_here

pytestmark = pytest.mark.integration


@pytest.fixture
def own(walked, tmp_path):
    return shutil.copytree(walked, tmp_path / "own")


@pytest.fixture(scope="module")
def proven(walked, tmp_path_factory):
    """The middle snapshot, exported with ONNX."""
    df = analysis.load(walked)
    return df, export(df, "t0000@1", tmp_path_factory.mktemp("proven") / "out", onnx=True)


def test_every_check_of_a_snapshot_passes_in_a_fresh_process(proven, walked):
    df, done = proven
    assert done.model == "t0000@1"
    assert all(check.passed for check in done.checks)
    logged = row_of(df, "t0000@1")
    assert done.proof["macs"] == logged["macs"]
    assert done.proof["val_accuracy"] == logged["val_accuracy"]
    weights = (done.folder / "weights.pt").read_bytes()
    assert weights == (walked / "trials" / "t0000" / "snapshots" / "01" / "weights.pt").read_bytes()


def test_the_card_says_which_snapshot_of_which_path_it_is(proven):
    card = (proven[1].folder / "MODEL_CARD.md").read_text()
    assert "t0000@1 of walked" in card
    assert "snapshot 1 of a path: 1 dense epochs, then 1 events, each followed by a cycle of 1 epochs" in card
    assert "2 epochs, batch 64" in card


def test_a_registered_snapshot_knows_its_run_and_its_name(proven):
    df, done = proven
    row = row_of(df, "t0000@1")
    registered = register(df, row, done, name="digits-path", alias="macs-70")
    client = MlflowClient(df.attrs["sweeps"][0]["tracking_uri"])
    version = client.get_model_version("digits-path", registered.version)
    assert version.run_id == row["run_id"]
    assert version.tags[Tag.MODEL_ID] == "t0000@1"
    assert version.tags[Tag.TRIAL_ID] == "t0000"


def test_a_snapshot_s_files_are_its_own_in_the_folder_and_in_mlflow(own):
    df = analysis.load(own)
    assert [len(layer_widths(manifest_of(df, row_of(df, f"t0000@{k}")))) > 0 for k in range(3)] == [
        False,
        True,
        True,
    ]
    row = row_of(df, "t0000@2")
    before = artifact_of(df, row, ARTIFACT_WEIGHTS).read_bytes()
    assert before != artifact_of(df, row_of(df, "t0000@1"), ARTIFACT_WEIGHTS).read_bytes()
    kept = own / "mlartifacts" / row["run_id"] / "artifacts" / "model"
    kept.parent.mkdir(parents=True)
    shutil.move(own / "trials" / "t0000" / "snapshots" / "02", kept)
    assert artifact_of(df, row, ARTIFACT_WEIGHTS).read_bytes() == before
    assert json.loads(artifact_of(df, row, ARTIFACT_MANIFEST).read_text())["snapshot"]["level"] == 2


def test_a_file_in_mlflow_is_asked_of_its_run_and_not_by_way_of_all_sweeps_of_the_store(own, monkeypatch):
    df = analysis.load("walked", tracking_uri=f"sqlite:///{own}/mlflow.db")
    row = row_of(df, "t0000@2")
    kept = own / "mlartifacts" / row["run_id"] / "artifacts" / "model"
    kept.parent.mkdir(parents=True)
    shutil.move(own / "trials" / "t0000" / "snapshots" / "02", kept)

    def searched(*args, **kwargs):
        raise AssertionError("the store was searched")

    for name in ("search_experiments", "search_runs"):
        monkeypatch.setattr(MlflowClient, name, searched)
    assert artifact_of(df, row, ARTIFACT_WEIGHTS) == kept / "weights.pt"
    assert artifact_of(df, row_of(df, "t0000@1"), ARTIFACT_WEIGHTS) is None


def test_a_snapshot_whose_weights_were_cleaned_says_how_to_get_them_back(own, tmp_path):
    (own / "trials" / "t0000" / "snapshots" / "02" / "weights.pt").unlink()
    df = analysis.load(own)
    with pytest.raises(ConfigError, match=rf"t0000@2: model/weights\.pt.*gcp-sweep replay {own} t0000@2`"):
        export(df, "t0000@2", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert artifact_of(df, row_of(df, "t0000@1"), ARTIFACT_WEIGHTS) is not None
    done = CliRunner().invoke(main, ["register", str(own), "--id", "t0000@2", "--name", "cleaned"])
    assert done.exit_code == 2, done.output
    assert f"`gcp-sweep replay {own} t0000@2` trains them again and puts them back" in done.stderr
    assert not registered(own, "cleaned")


@pytest.mark.parametrize("verb", ["select", "export", "register"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t0000@9", "t0000@9: the path has 3 snapshots, t0000@0 .. t0000@2"),
        ("t0000", "is a path with 3 snapshots, t0000@0 .. t0000@2"),
        ("b0000@0", "is not a path"),
    ],
)
def test_a_snapshot_that_the_path_has_not_is_refused_before_anything_is_proven(
    own, tmp_path, verb, name, said
):
    more = {"export": ["--out", str(tmp_path / "out")], "register": ["--name", "none"]}.get(verb, [])
    done = CliRunner().invoke(main, [verb, str(own), "--id", name, *more])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert not (tmp_path / "out").exists()
    assert not registered(own, "none")


def registered(sweep, name):
    """Versions of that name in the registry of the sweep's own database."""
    return MlflowClient(f"sqlite:///{sweep}/mlflow.db").search_model_versions(f"name = '{name}'")


@pytest.fixture(scope="module")
def polished(walked, tmp_path_factory):
    """The middle snapshot polished for two epochs, as the sweep's command leaves it; proven and exported."""
    folder = shutil.copytree(walked, tmp_path_factory.mktemp("polished") / "walked")
    trial = folder / "trials" / "t0000"
    model = polish(PATH, trial / "snapshots" / "01", 2, checkpoint_dir=trial).model
    ref = store.find(folder)
    records = store.read_records(ref)
    path = records.loc[records["tag:mlflow.runName"] == "t0000", "run_id"].iloc[0]
    own = {Tag.MODEL_ID: "t0000@1+2", Tag.TRIAL_ID: "t0000", Tag.LEVEL: "1", Tag.POLISH: "2"}
    finals = {name: value for name, value in model.finals.items() if name != "latency_noise"}
    run = FakeTrial("t0000@1+2", PATH, finals, SNAPSHOT, tags=own)
    tags = {Tag.SWEEP_NAME: ref.name, Tag.SWEEP_ID: ref.id, Tag.SCHEMA: "1"}
    log_trial(MlflowClient(ref.tracking_uri), ref.experiment_id, path, run, tags, 1_800_000_000_000)
    df = analysis.load(folder)
    with proven_here():
        return df, export(df, "t0000@1+2", folder.parent / "out", onnx=True), folder


def test_a_polished_model_is_proven_exported_and_registered_under_its_own_name(polished):
    df, done, folder = polished
    assert all(check.passed for check in done.checks)
    weights = folder / "trials" / "t0000" / "snapshots" / "01+2" / "weights.pt"
    assert (done.folder / "weights.pt").read_bytes() == weights.read_bytes()
    registered = register(df, row_of(df, "t0000@1+2"), done, name="polished-path", alias="macs-70")
    client = MlflowClient(df.attrs["sweeps"][0]["tracking_uri"])
    assert client.get_model_version("polished-path", registered.version).tags[Tag.MODEL_ID] == "t0000@1+2"


def test_the_card_of_a_polished_model_says_what_it_was_made_of(polished):
    card = (polished[1].folder / "MODEL_CARD.md").read_text()
    assert "t0000@1+2 of walked" in card
    assert "4 epochs, batch 64" in card, "two of the path, two of the polish"
    assert "- polished: 2 more epochs in one cycle from 1 of the peak learning rate, no event" in card


def test_a_polished_model_whose_weights_are_gone_is_named_with_the_command_that_brings_them_back(
    polished, tmp_path
):
    folder = shutil.copytree(polished[2], tmp_path / "walked")
    (folder / "trials" / "t0000" / "snapshots" / "01+2" / "weights.pt").unlink()
    with pytest.raises(ConfigError, match=r"gcp-sweep replay .*walked t0000@1\+2"):
        export(analysis.load(folder), "t0000@1+2", tmp_path / "out")
