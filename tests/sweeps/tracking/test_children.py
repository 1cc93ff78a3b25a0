"""What MLflow holds of a sweep already, asked of a client that answers in pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gcp_core.schema import Tag
from sweeps.tracking.children import SweepRun, children_of

SWEEP = SweepRun("0123", "x", "sqlite:///x", "x", "7", "parent")


def _run(run_id: str, trial: str | None, status: str = "FINISHED", **metrics: float) -> Any:
    tags = {Tag.TRIAL_ID: trial} if trial else {}
    metrics = {name.replace("__", "/"): value for name, value in metrics.items()}
    data = SimpleNamespace(tags=tags, metrics=metrics, params={})
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id, status=status), data=data)


class Client:
    """Two runs a page; remembers queries and what was deleted."""

    def __init__(self, *runs: Any, epochs: tuple[int, ...] = ()) -> None:
        self.runs, self.epochs = runs, epochs
        self.deleted: list[str] = []
        self.asked: list[tuple[list[str], str]] = []
        self.histories: list[str] = []

    def search_runs(
        self, experiments: list[str], query: str, max_results: int, page_token: str | None
    ) -> Any:
        self.asked.append((experiments, query))
        start = int(page_token or 0)
        page = list(self.runs[start : start + 2])
        more = start + 2 < len(self.runs)

        class Page(list):
            token = str(start + 2) if more else None

        return Page(page)

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        self.histories.append(run_id)
        assert key == "val/accuracy"
        return [SimpleNamespace(step=epoch) for epoch in self.epochs]

    def delete_run(self, run_id: str) -> None:
        self.deleted.append(run_id)


def test_children_are_found_on_every_page_by_their_trial():
    client = Client(*[_run(f"r{i}", f"t{i:04d}", final__macs=1.0, val__accuracy=9.0) for i in range(5)])
    found = children_of(client, SWEEP)
    assert {name: child.run_id for name, child in found.items()} == {f"t{i:04d}": f"r{i}" for i in range(5)}
    assert set(found["t0003"].finals) == {"macs"}
    assert client.asked == [(["7"], f"tags.`{Tag.PARENT}` = 'parent'")] * 3
    assert client.deleted == []


def test_of_two_runs_of_one_trial_the_emptier_goes_whichever_came_first():
    full, empty = _run("full", "t0000", final__macs=1.0), _run("empty", "t0000")
    for runs in ((full, empty), (empty, full)):
        client = Client(*runs)
        assert children_of(client, SWEEP)["t0000"].run_id == "full"
        assert client.deleted == ["empty"]


def test_epochs_are_asked_for_only_where_some_may_be_missing():
    client = Client(_run("done", "t0000"), _run("half", "t0001", "RUNNING"), epochs=(1, 2, 5))
    found = children_of(client, SWEEP)
    assert found["t0001"].epochs == {1, 2, 5}
    assert found["t0000"].epochs == set()
    assert client.histories == ["half"]


def test_a_run_that_somebody_made_by_hand_keeps_its_own_name():
    assert set(children_of(Client(_run("by-hand", None)), SWEEP)) == {"by-hand"}


def test_a_narrower_question_is_asked_as_it_was_put():
    client = Client()
    assert children_of(client, SWEEP, " and tags.`x` = '1'") == {}
    assert client.asked[0][1].endswith("= 'parent' and tags.`x` = '1'")


@pytest.mark.parametrize(
    ("number", "whole"), [(0, False), (75, True), (100, False), (101, True), (200, False)]
)
def test_a_run_without_its_parameters_or_with_the_first_hundreds_alone_is_not_described(
    number: int, whole: bool
) -> None:
    """MLflow's client sends them by the hundred."""
    run = _run("r0", "t0000")
    run.data.params.update({f"key{i}": "1" for i in range(number)})
    assert children_of(Client(run), SWEEP)["t0000"].described is whole
