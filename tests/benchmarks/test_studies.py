"""What the studies about paths read from their tables, and what they refuse to write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import cost_figure, path_front, studies, study_figure, study_tables, trainings
from benchmarks.record import ROOT
from gcp_core.allocators import build_allocator
from gcp_core.config import NO_REPAIR
from gcp_core.criteria import build_criterion
from gcp_core.repairs import build_repair
from gcp_core.schedule.clocks import build_clock
from gcp_core.schedule.paces import build_pace
from gcp_core.training.composition import penalty_of, rewrite_of

#: Level of a path -> (share of the MACs removed, dense epochs up to it).
LEVELS = {2: (0.5, 11.0), 3: (0.65, 13.0), 4: (0.8, 14.0), 5: (0.9, 15.0)}
ANEW = {2: 20.0, 3: 15.0, 4: 10.0, 5: 5.0}


def row(training: str, level: int | None, removed: float, cost: float, **more: Any) -> dict[str, Any]:
    about = {"seed": 0, "training": training, "level": level, "epoch": 10, "macs_removed": removed}
    return about | {"val_accuracy": 70.0, "train_cost": cost} | more


def path_rows() -> list[dict[str, Any]]:
    """One path, and the widths of its models trained from scratch."""
    own = [row("path 4 + 6", level, removed, cost) for level, (removed, cost) in LEVELS.items()]
    anew = [row("path 4 + 6", level, LEVELS[level][0], cost, anew=True) for level, cost in ANEW.items()]
    return [*own, *anew]


def test_the_test_accuracy_of_a_path_is_that_of_the_model_that_validation_chooses():
    snapshots = (
        {"macs_removed": 0.5, "val_accuracy": 72.0, "test_accuracy": 70.0},
        {"macs_removed": 0.65, "val_accuracy": 71.0, "test_accuracy": 74.0},
    )
    path = path_front.Curve("p", {}, None, snapshots)
    assert [path_front.tested_at(path, share) for share in (0.5, 0.35)] == [70.0, 74.0]
    assert math.isnan(path_front.tested_at(path, 0.2))


def test_two_paths_of_one_seed_are_not_two_seeds(tmp_path):
    header, *lines = path_front.TABLE.read_text().splitlines()
    line = next(line for line in lines if json.loads(line)["name"] == "quick-0/t0000")
    table = tmp_path / "paths.jsonl"
    table.write_text("\n".join([header, line, line]) + "\n")
    with pytest.raises(SystemExit, match="more than one path of seed 0: seeds count once"):
        path_front.results(table)


@pytest.mark.parametrize("study", studies.STUDIES)
def test_what_the_trainings_of_a_study_are_made_of_can_be_had(study):
    """Names in a config are imported when a trial starts: one that has moved would end a study hours after it began."""
    for training in studies.STUDIES[study](0, "x"):
        if (prune := training.config.prune) is not None:
            build_clock(prune.clock, prune.clock_options)
            build_criterion(prune.criterion, prune.options)
            build_allocator(prune.allocator, prune.allocator_options)
            if prune.repair != NO_REPAIR:
                build_repair(prune.repair, prune.repair_options)
        penalty_of(training.config)
        rewrite_of(training.config)
        build_pace(training.config.train.pace)


def test_trainings_of_one_name_and_two_networks_lie_in_two_folders(tmp_path):
    small, residual = (make(0, "x")[0] for make in (studies.criteria, studies.criteria_resnet))
    assert small.name == residual.name
    folders = [trainings.folder_of(0, one, tmp_path) for one in (small, residual)]
    assert [folder.relative_to(tmp_path).as_posix() for folder in folders] == [
        "seed-0/path_frs",
        "seed-0/resnet20-path_frs",
    ]


def test_no_study_has_two_trainings_in_one_folder(tmp_path):
    of_folder: dict[Path, str] = {}
    for study in studies.STUDIES.values():
        for one in study(0, "x"):
            key = one.config.key()
            assert of_folder.setdefault(trainings.folder_of(0, one, tmp_path), key) == key, one.name


def test_seeds_are_added_to_a_table_and_those_it_has_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(trainings, "DATA", tmp_path)
    assert trainings.kept("repair", "x") == (None, [])  # there is no table yet
    names = [one.name for one in studies.repair(0, "x")]
    rows = {seed: [{"seed": seed, "training": name, "epoch": seed} for name in names] for seed in (0, 1, 2)}
    trainings.write("repair", None, rows[0] + rows[2])
    before, had = trainings.kept("repair", "x")
    assert had == rows[0] + rows[2]
    assert "before" not in before
    trainings.write("repair", before, had + rows[1])
    header, lines = trainings.kept("repair", "x")
    assert lines == rows[0] + rows[1] + rows[2] == trainings.read("repair")
    assert header["before"] == before


def test_nothing_is_added_to_a_table_of_other_trainings(monkeypatch, tmp_path):
    monkeypatch.setattr(trainings, "DATA", tmp_path)
    rows = [{"cpu": "?"}, {"seed": 3, "training": "path, frs"}, {"seed": 3, "training": "gone"}]
    trainings.table_of("repair").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(
        SystemExit, match=r"study_repair\.jsonl has trainings that the study has not \(gone\)"
    ):
        trainings.kept("repair", "x")


def test_tables_that_are_recorded_can_be_added_to():
    for study in studies.STUDIES:
        trainings.kept(study, "x")


def test_widths_trained_from_scratch_cost_in_the_figure_what_found_them_too():
    rows = cost_figure.charged(path_rows())
    alone = {
        point.share: point.cost for point in cost_figure.points(rows) if point.kind == cost_figure.SCRATCH
    }
    assert alone == {0.5: 20.0 + 11.0, 0.35: 15.0 + 13.0, 0.2: 10.0 + 14.0, 0.1: 5.0 + 15.0}
    together = {point.kind: point.cost for point in cost_figure.together(rows)}
    # The path is trained once, and four networks from scratch.
    assert together == {cost_figure.PLAIN: 15.0, cost_figure.SCRATCH: 15.0 + 20.0 + 15.0 + 10.0 + 5.0}


def test_the_table_says_what_widths_from_scratch_cost_alone_and_with_their_path():
    singles = [
        row(f"single to {share:.0%}, {length}", None, 1 - share, cost, val_accuracy=accuracy)
        for share in study_tables.SHARES
        for length, cost, accuracy in (("a quarter of a path", 4.0, 60.0), ("30 epochs", 16.0, 80.0))
    ]
    found = study_tables.epochs([*singles, *path_rows()])
    widths = found["path 4 + 6, widths of snapshot 2 trained anew for 10 epochs"]
    assert (widths["cost"], widths["cost with the path"]) == (20.0, 31.0)
    # Half of the way from 60 to 80 %, and from 4 to 16 in the logarithm.
    as_good = found["single trials as good as the path's model, dense epochs"]["path 4 + 6"]
    assert as_good["at 50% of the MACs"] == 8.0


def test_the_figure_of_a_study_shows_every_seed_or_says_that_it_lies_below():

    def training(name: str, seeds: list[float]) -> dict[Any, Any]:
        at = {"seeds": seeds, "mean": sum(seeds) / len(seeds)}
        return {"training": name, "cost": 15.0, **dict.fromkeys(study_figure.SHOWN, at)}

    found = [training(study_figure.REFERENCE, [70.0, 70.0]), training("path, wide", [64.0, 68.0, 75.0])]
    panel = study_figure.draw(found).axes[0]
    low, high = panel.get_xlim()
    assert (low, high > 75.0) == (65.0, True)
    (arrow,) = [line for line in panel.lines if line.get_marker() == "<"]
    assert (list(arrow.get_xdata()), list(arrow.get_ydata())) == ([65.0], [1])


@pytest.mark.parametrize(("drawn", "least"), [("front_race", 4), ("settings_18", 4), ("methods", 16)])
def test_the_figure_of_a_study_has_the_values_of_its_record(drawn, least, tmp_path):
    found = study_figure.rows(drawn)
    assert len(found) >= least
    fifth = [row[0.2]["mean"] for row in found]
    assert fifth == sorted(fifth, reverse=True)
    shown = [axes.get_title() for axes in study_figure.draw(found).axes]
    assert shown == [f"{share:.0%} of the MACs" for share in found[0] if isinstance(share, float)]
    study_figure.write_csv(found, tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert [line.count(",") >= 2 * len(shown) for line in lines] == [True] * (len(found) + 1)


@pytest.mark.parametrize(
    "name",
    [
        "front_race",
        "study_criteria_resnet",
        "study_methods",
        *(f"study_settings_{cost}" for cost in (12, 18, 30)),
    ],
)
def test_a_drawn_table_that_is_in_the_pages_is_that_of_today(name, tmp_path):
    study_figure.write_csv(study_figure.rows(name.removeprefix("study_")), tmp_path / "rows.csv")
    written = ROOT / "docs" / "results" / f"{name}.csv"
    assert (tmp_path / "rows.csv").read_text() == written.read_text()
