"""The ready-made view in MLflow: its state, which MLflow gets it, and that nothing of it can end a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

from gcp_core.schema import FINALS
from sweeps.config.sweep_config import SweepConfig
from sweeps.tracking.view import COLUMNS, TAG_PREFIX, clicks, keep_views, views
from sweeps.tracking.writer import open_writer
from tests.prepared import with_store
from tests.sweeps.inline import OF_PATHS, config

SWEEP = "0123456789ab"


class Client:
    """Remembers the tags it is given."""

    def __init__(self, uri: str = "sqlite:///x.db", error: Exception | None = None) -> None:
        self.tracking_uri, self.error = uri, error
        self.written: dict[str, str] = {}

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        if self.error is not None:
            raise self.error
        self.written[key] = value


def _experiment(**tags: str) -> Any:
    return SimpleNamespace(experiment_id="7", creation_time=1000, tags=tags)


def _states(checked: SweepConfig) -> dict[str, dict[str, Any]]:
    return {view.title: dict(view.state) for view in views(checked, SWEEP)}


@pytest.mark.parametrize("more", [{}, OF_PATHS], ids=["single", "paths"])
def test_the_view_is_sorted_by_validation_accuracy_and_test_accuracy_is_nowhere(
    tmp_path: Path, more: dict
) -> None:
    for state in _states(config(tmp_path, more)).values():
        assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`final/val_accuracy`", False)
        assert "test" not in json.dumps(state)


def test_the_table_shows_accuracy_cost_and_what_is_searched(tmp_path: Path) -> None:
    columns = _states(config(tmp_path))["models, best first"]["selectedColumns"]
    assert columns[: len(COLUMNS)] == [f"metrics.`{FINALS[name].key}`" for name in COLUMNS]
    for path in ("prune.criterion", "prune.interval", "prune.ratio", "prune.target"):
        assert f"params.`{path}`" in columns


@pytest.mark.parametrize("more", [{}, OF_PATHS], ids=["single", "paths"])
def test_a_model_that_was_stopped_or_breaks_a_limit_says_so_beside_its_values(
    tmp_path: Path, more: dict
) -> None:
    """The most accurate ones stand first: with ``macs <= 50%`` these are models that break it."""
    for state in _states(config(tmp_path, more)).values():
        assert "tags.`status`" in state["selectedColumns"]
        assert (
            state["columnOrder"].index("tags.`status`")
            == state["columnOrder"].index("tags.`pareto.front`") + 1
        )


def test_a_chart_of_each_kind_stands_in_a_section_that_is_there(tmp_path: Path) -> None:
    state = _states(config(tmp_path))["charts"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["type"] for chart in state["compareRunCharts"]} == {"SCATTER", "PARALLEL", "LINE"}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections
    ids = [chart["uuid"] for chart in state["compareRunCharts"]]
    assert len(set(ids)) == len(ids)


def test_models_of_paths_are_its_snapshots_and_the_curves_have_a_view_of_their_own(tmp_path: Path) -> None:
    states = _states(config(tmp_path, OF_PATHS))
    assert "`kind` != 'trial'" in states["models, best first"]["searchFilter"]
    assert "`kind` != 'snapshot'" in states["paths over the epochs"]["searchFilter"]
    assert {c["type"] for c in states["paths over the epochs"]["compareRunCharts"]} == {"LINE"}


def test_an_address_names_the_experiment_and_the_view_and_has_no_field_of_the_search(tmp_path: Path) -> None:
    table, charts = (view.address("7") for view in views(config(tmp_path), SWEEP))
    assert table == f"#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=gcp-{SWEEP}"
    assert charts == f"{table}&compareRunsMode=CHART"


def test_a_view_is_saved_as_the_page_saves_one_with_a_name(tmp_path: Path) -> None:
    wanted = views(config(tmp_path), SWEEP)
    client = Client()
    assert list(keep_views(client, _experiment(), wanted)) == [view.title for view in wanted]  # type: ignore[arg-type]
    (saved,) = client.written.values()
    named = json.loads(saved)
    assert (named["name"], named["createdAt"]) == (f"Finished models ({SWEEP})", 1000)
    assert json.loads(named["state"]) == wanted[0].state


@pytest.mark.parametrize("version", ["3.10.1", "3.16.0", "4.0.0", "2.22.1", "unknown"])
def test_a_version_that_was_not_seen_to_take_views_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(mlflow, "__version__", version)
    client = Client()
    assert keep_views(client, _experiment(), views(config(tmp_path), SWEEP)) == {}  # type: ignore[arg-type]
    assert client.written == {}


@pytest.mark.parametrize(("said", "taken"), [("3.17.2", True), ("2.9.0", False), ("<html>", False)])
def test_of_a_server_its_own_version_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, taken: bool
) -> None:
    import mlflow.utils.rest_utils as rest

    asked = []

    def answer(creds: Any, endpoint: str, method: str, **_: Any) -> Any:
        asked.append((creds.host, endpoint))
        return SimpleNamespace(status_code=200, text=said)

    monkeypatch.setattr(rest, "http_request", answer)
    found = keep_views(Client("http://tracking:80"), _experiment(), views(config(tmp_path), SWEEP))  # type: ignore[arg-type]
    assert bool(found) == taken
    assert asked == [("http://tracking:80", "/version")]


def test_a_store_that_refuses_the_tag_costs_the_view_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(error=RuntimeError("no tags today"))
    assert keep_views(client, _experiment(), views(config(tmp_path), SWEEP)) == {}  # type: ignore[arg-type]
    assert "no ready-made view in MLflow: no tags today" in caplog.text


def test_a_view_that_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    wanted = views(config(tmp_path), SWEEP)
    first, second = Client(), Client()
    keep_views(first, _experiment(), wanted)  # type: ignore[arg-type]
    assert keep_views(second, _experiment(**first.written), wanted)  # type: ignore[arg-type]
    assert second.written == {}


def test_a_view_longer_than_a_tag_is_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = views(config(tmp_path), "x" * 3000)
    client = Client()
    assert keep_views(client, _experiment(), wanted) == {}  # type: ignore[arg-type]
    assert client.written == {}
    assert "would not fit into a tag" in caplog.text


def test_the_writer_keeps_the_views_with_the_experiment(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    checked = config(tmp_path, OF_PATHS)
    folder = with_store(Path(checked.folder))
    (folder / "config.yaml").write_text("")
    writer = open_writer(checked, folder, SWEEP)
    writer.close("FINISHED")
    experiment = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_experiment_by_name(checked.name)
    kept = {key for key in experiment.tags if key.startswith(TAG_PREFIX)}
    assert kept == {f"{TAG_PREFIX}gcp-{SWEEP}", f"{TAG_PREFIX}gcp-{SWEEP}-epochs"}
    assert list(writer.run.views) == ["models, best first", "charts", "paths over the epochs"]
    assert writer.run.views["charts"].startswith(f"#/experiments/{experiment.experiment_id}/runs?")


def test_the_clicks_name_the_experiment_the_filter_and_the_columns() -> None:
    for of_paths, kind in ((False, "trial"), (True, "snapshot")):
        text = clicks("demo", of_paths)
        for words in (
            "experiment demo",
            f"tags.kind = '{kind}'",
            "final/val_accuracy, descending",
            "Scatter chart",
        ):
            assert words in text
