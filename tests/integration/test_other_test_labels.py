"""A real sweep of paths, run twice: the second time the test images are called something else. Nothing but the test
accuracy may notice: it steers no proposal, snapshot, front, selection, tag or default.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from click.testing import CliRunner

import analysis
from analysis.cli.program import main
from gcp_core.data import RawData, load_splits
from gcp_core.data.digits import load_digits
from gcp_core.schema import SNAPSHOT, Kind, Tag
from sweeps.config.sweep_config import load_config
from sweeps.records.ledger import Ledger
from tests.integration.programs import sweep_in_process

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
SHIFT = "GCP_TEST_LABELS_SHIFTED_BY"
TREE: dict[str, Any] = {
    "name": "labels",
    "data": {"name": f"{__name__}:digits", "val_share": 0.25, "train_images": 500},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"schedule": "cycles", "batch_size": 20, "restart": 0.5},
    "prune": {
        "start": {"choice": [3, 4]},
        "interval": {"choice": [2, 3]},
        "ratio": {"low": 0.3, "high": 0.6, "step": 0.1},
        "target": 0.7,
        "criterion": {"choice": ["frs", "l1"]},
        "min_channels": 1,
        "min_share": 0.03,
    },
    # Four paths are warm-up, five are proposed by TPE.
    "search": {"sampler": "tpe", "trials": 9, "constraints": ["accuracy_drop <= 60"], "min_gain": 0},
}
#: Parts of names of what differs between two runs of one sweep: test accuracy, times, MLflow's ids, digests.
OTHERS = (
    "test_accuracy",
    "hours",
    "latency",
    "seconds",
    "epoch_s",
    "run_id",
    "link",
    "digest",
    "sweeps",
)
#: MLflow shows it as the run's description; it tells the time that the sweep took.
NOTE = "mlflow.note.content"
QUESTIONS = [
    ["front"],
    ["select", "macs <= 60%", "--best", "accuracy"],
    ["select", "accuracy_drop <= 20", "--cheapest", "macs"],
    ["select", "--knee"],
    ["select", "--top", "4"],
    ["select", "--weighted", "accuracy=2 macs=1"],
    ["advise"],
]


def digits(config):
    """The digits, the names of whose test images are shifted by so many."""
    raw = load_digits(config)
    shifted = (raw.test_labels + int(os.environ.get(SHIFT, "0"))) % 10
    return RawData.build(raw.train_images, raw.train_labels, raw.test_images, shifted)


def same(name: str) -> bool:
    """Whether something of this name must be the same."""
    return name not in ("started", "ended") and not any(part in name for part in OTHERS)


def run_in_process(storage: Path) -> Path:
    """The sweep without Ray, so that the order of all answers is the same; with MLflow and everything else."""
    load_splits.cache_clear()  # a process loads equal configs of data once
    return sweep_in_process(load_config(TREE, {"storage": str(storage)}))


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """The sweep's folder with the true test labels, and with others."""
    with pytest.MonkeyPatch.context() as patch:
        true = run_in_process(tmp_path_factory.mktemp("true"))
        patch.setenv(SHIFT, "1")
        return true, run_in_process(tmp_path_factory.mktemp("other"))


def ledger_of(folder: Path) -> dict[str, Any]:
    """Everything that the sweep's search has decided and found, without times and test accuracy."""
    ledger = Ledger(folder, "labels", load_config(TREE).search.objectives)

    def without(finals):
        return {k: v for k, v in finals.items() if same(k)}

    return {
        "proposed": [(r.job.point, r.status, r.values, without(r.finals)) for r in ledger.records("trial")],
        "baselines": [(r.key, r.status, without(r.finals)) for r in ledger.records("baseline")],
        "snapshots": {
            trial: [
                (
                    o.snap.level,
                    o.snap.weights_sha256,
                    o.snap.status,
                    o.values,
                    o.violations,
                    without(o.snap.finals),
                )
                for o in taken
            ]
            for trial, taken in ledger.snapshots().items()
        },
    }


def mlflow_of(folder: Path) -> dict[str, Any]:
    """Name of every run -> status, tags and metrics as MLflow holds them."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("labels").experiment_id], max_results=1000)
    mine = {*get_args(Kind), SNAPSHOT}
    return {
        run.info.run_name: (
            run.info.status,
            {k: v for k, v in run.data.tags.items() if same(k) and k not in (Tag.PARENT, NOTE)},
            {k: v for k, v in run.data.metrics.items() if same(k)},
        )
        for run in runs
        if run.data.tags[Tag.KIND] in mine
    }


def answer(folder: Path, question: list[str]) -> Any:
    """What the program answers, without test accuracy, times and ids."""
    done = CliRunner().invoke(main, [question[0], str(folder), *question[1:], "--json", "--no-cache"])
    assert done.exit_code in (0, 3), done.output
    return _plain(json.loads(done.stdout))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if same(k)}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def test_the_models_have_another_test_accuracy(both):
    """Or the tests below would say nothing."""
    true, other = (analysis.load(folder).set_index("model")["test_accuracy"] for folder in both)
    assert (true != other).mean() > 0.9
    # How good models this small become differs from processor to processor; wrong names are worse than chance by far.
    assert true.mean() > other.mean() + 30


def test_proposals_snapshots_weights_and_what_they_are_judged_by_are_the_same(both):
    true, other = map(ledger_of, both)
    assert len(true["proposed"]) == 9
    assert true == other


def test_runs_curves_tags_and_the_front_in_mlflow_are_the_same(both):
    true, other = map(mlflow_of, both)
    assert any(tags.get(Tag.FRONT) == "true" for _, tags, _ in true.values())
    assert true == other
    assert all(len(metrics) <= 24 for _, _, metrics in true.values())


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_every_answer_is_the_same(both, question):
    true, other = (answer(folder, question) for folder in both)
    assert true == other


def test_the_reports_table_has_the_same_models_in_the_same_order(both):
    tables = []
    for folder in both:
        table = pd.read_csv(folder / "report" / "front.csv")
        tables.append(table[[name for name in table if same(name)]])
    assert len(tables[0]) >= 3
    pd.testing.assert_frame_equal(*tables)


def test_the_page_has_the_same_points_in_the_same_order_and_the_same_defaults(both, tmp_path):
    pages = []
    for number, folder in enumerate(both):
        out = tmp_path / str(number)
        done = CliRunner().invoke(main, ["report", str(folder), "--out", str(out), "--no-cache"])
        assert done.exit_code == 0, done.output
        page = (out / "report.html").read_text(encoding="utf-8")
        pages.append(_plain(json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])))
    assert len(pages[0]["trials"]) > 10
    assert pages[0] == pages[1]
