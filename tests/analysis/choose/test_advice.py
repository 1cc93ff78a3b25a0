"""Where the front is thin, and what to try there: gaps against the definition, points that the next sweep accepts."""

import itertools
import json

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import analysis
from analysis.choose import advice
from analysis.cli.program import main
from analysis.errors import NothingFeasible
from analysis.evidence import importance
from analysis.front.anchors import anchors_for
from gcp_core.errors import ConfigError
from sweeps.config.sweep_config import load_config
from tests.analysis.cli.test_schemas import SCHEMAS
from tests.analysis.synthetic import (
    FakeTrial,
    baseline_trial,
    config_for,
    curve,
    finals_of,
    path_baseline,
    path_of,
    some_trials,
    write_sweep,
)

GOALS = {"val_accuracy": "max", "macs": "min"}
CONFIG = """
name: thin
data: {name: digits, val_share: 0.25}
model: {name: vgg_tiny, width: 0.5}
train: {epochs: 20, batch_size: 64}
prune:
  criterion: {choice: [frs, l1]}
  interval: {choice: [1, 2, 4]}
  target: {low: 0.3, high: 0.95, step: 0.05}
search: {trials: 4}
"""


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A front with one wide hole, between targets 0.4 and 0.9; nothing ran there."""
    folder = tmp_path_factory.mktemp("advice") / "thin"
    trials = [baseline_trial()]
    for i, (target, criterion, interval) in enumerate(
        [(0.3, "frs", 1), (0.4, "frs", 1), (0.9, "l1", 4), (0.95, "l1", 4)]
    ):
        config = config_for(target=target, criterion=criterion, interval=interval)
        trials.append(FakeTrial(f"t{i:04d}", config, finals_of(1 - target, curve(1 - target))))
    write_sweep(folder, trials)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def test_the_widest_gap_is_the_widest_by_definition(df):
    scales = anchors_for(df, GOALS)
    found = advice.gaps(df, GOALS, scales)
    best = analysis.pareto.front(df, GOALS).sort_values("macs")
    # Loss 1 at the worst anchor: accuracy from the baseline ten points down, MACs from nothing to the baseline.
    x = best["macs"] / 4e6
    y = (97.0 - best["val_accuracy"]) / 10.0
    widths = [float(np.hypot(x[a] - x[b], y[a] - y[b])) for a, b in itertools.pairwise(best.index)]
    assert found["width"].tolist() == pytest.approx(sorted(widths, reverse=True))
    at = int(np.argmax(widths))
    assert (found["cheaper"][0], found["dearer"][0]) == (best.index[at], best.index[at + 1])


def test_points_aim_into_the_hole_and_are_values_the_config_allows(thin):
    df = analysis.load(thin)
    found = advice.advise(df, GOALS, anchors_for(df, GOALS), points=4, widest=1)
    assert found.gaps[0].words.startswith("nothing between t0002 and t0001: ")
    targets = [point["prune.target"] for point in found.points]
    assert targets[0] == pytest.approx(0.65), "half way between 0.4 and 0.9"
    assert all(0.4 < target < 0.9 for target in targets)
    assert {point["prune.interval"] for point in found.points} <= {1, 2, 4}
    assert found.points[0]["prune.interval"] == 2, "half way between 1 and 4 is 2.5"
    assert {point["prune.criterion"] for point in found.points} == {"frs", "l1"}
    assert len({json.dumps(point) for point in found.points}) == 4


def test_what_already_ran_is_not_proposed_again(thin):
    df = analysis.load(thin)
    first = advice.advise(df, GOALS, anchors_for(df, GOALS), points=1, widest=1).points[0]
    row = df[df["trial"] == "t0003"].assign(**{"trial": "t0099", "seed": 7, "val_accuracy": 20.0, **first})
    import pandas as pd

    more = pd.concat([df, row], ignore_index=True)
    more.attrs = df.attrs
    again = advice.advise(more, GOALS, anchors_for(more, GOALS), points=1, widest=1).points[0]
    assert again != first, "another seed of the same configuration is no new configuration"


def test_the_written_config_is_a_sweep_that_tries_the_points_first(thin, tmp_path):
    out = tmp_path / "next.yaml"
    done = CliRunner().invoke(main, ["advise", str(thin), "--points", "3", "--write", str(out), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, json.loads((SCHEMAS / "advise.json").read_text()))
    assert answer["importance_unknown"] == "4 finished trials say nothing about importance"
    config = load_config(out)
    assert config.name == "thin-next"
    assert list(config.search.points) == answer["points"]
    assert config.search.trials == 4
    assert "#   nothing between t0002 and t0001" in out.read_text()


def test_where_the_front_is_thin_is_said_although_no_parameter_varies(tmp_path, monkeypatch):
    """All paths go down to the upper end of a searched target, so only their seeds differ."""
    monkeypatch.setattr(importance, "FEWEST", 2)
    folder = tmp_path / "seeds"
    write_sweep(folder, [path_baseline(), path_of("t0000", 0, levels=3), path_of("t0001", 1, levels=3)])
    (folder / "config.yaml").write_text(
        "name: seeds\nseed: {low: 0, high: 9}\nprune: {target: {low: 0.3, high: 0.5, step: 0.1}}\n"
    )
    done = CliRunner().invoke(main, ["advise", str(folder)])
    assert done.exit_code == 0, done.output
    assert "importance: not known (nothing was searched: no parameter varies)" in done.stdout
    assert "Where the front is thin:\n  nothing between t" in done.stdout


def test_what_mattered_is_about_the_accuracy_whatever_the_sweep_looks_for(tmp_path):
    write_sweep(tmp_path / "shares", [baseline_trial(), *some_trials(12)])
    (tmp_path / "shares" / "config.yaml").write_text(
        "name: shares\nsearch: {objectives: {macs_removed: max, val_accuracy: max}}\n"
    )
    done = CliRunner().invoke(main, ["advise", str(tmp_path / "shares"), "--json"])
    assert done.exit_code == 0, done.output
    assert {row["target"] for row in json.loads(done.stdout)["importance"]} == {"val_accuracy"}


def test_advice_in_words_says_what_mattered_what_shows_no_evidence_and_what_is_predicted(tmp_path):
    write_sweep(tmp_path / "sound", [baseline_trial(), *some_trials(24)])
    done = CliRunner().invoke(main, ["advise", str(tmp_path / "sound")])
    assert done.exit_code == 0, done.output
    assert "What mattered: Share of the variation of val_accuracy that goes with a parameter" in done.stdout
    assert "No evidence for prune." in done.stdout
    assert "on trials held out (out-of-bag R2)" in done.stdout
    assert "10 to 90 % of draws" in done.stdout
    assert "Where the front is thin:\n  nothing between t" in done.stdout
    assert "prune.target=" in done.stdout.split("To try next:")[1]


@pytest.mark.parametrize(
    ("low", "high", "leaf", "expected"),
    [
        (0.4, 0.9, {"low": 0.3, "high": 0.95, "step": 0.05}, [0.65]),
        (1e-4, 1e-2, {"low": 1e-5, "high": 1.0, "log": True}, [1e-3]),
        (1, 4, {"low": 1, "high": 8}, [3]),
        (1, 4, {"choice": [1, 2, 4]}, [2]),
        ("frs", "l1", {"choice": ["frs", "l1", "random"]}, ["l1", "frs"]),
        (None, 0.4, {"low": 0.1, "high": 0.4, "step": 0.1}, [0.2]),
        (None, None, {"choice": [None, 2]}, [None]),
        ("auto", 8, {"low": 2, "high": 8}, [5]),
    ],
)
def test_half_way_is_snapped_to_the_range(low, high, leaf, expected):
    assert advice._between(low, high, leaf, 0.5) == pytest.approx(expected)


def test_advice_on_several_sweeps_steps_from_no_value_where_a_path_has_none(tmp_path):
    """The first sweep searches the ratio; the whole front is a path of the second one, which is told its levels."""
    poor = FakeTrial("t0000", config_for(ratio=0.3), finals_of(0.99, 50.0))
    write_sweep(tmp_path / "first", [baseline_trial(), poor])
    searched = "name: first\nprune: {ratio: {low: 0.1, high: 0.5, step: 0.1}}\n"
    (tmp_path / "first" / "config.yaml").write_text(searched)
    write_sweep(tmp_path / "second", [path_baseline(), path_of("t0000")])
    df = analysis.load([tmp_path / "first", tmp_path / "second"])
    found = advice.advise(df, GOALS, anchors_for(df, GOALS))
    assert {name.partition("@")[0] for gap in found.gaps for name in (gap.cheaper, gap.dearer)} == {"t0000"}
    assert (len(found.gaps), found.points) == (3, ())


def test_no_gap_and_no_search_are_said(df, tmp_path):
    scales = anchors_for(df, GOALS)
    with pytest.raises(NothingFeasible, match="fewer than two points"):
        advice.gaps(df[df["candidate"]].head(1), GOALS, scales)
    one = df[df["candidate"]].head(2).copy()
    one[[c for c in one.columns if c.startswith("prune.")]] = 1
    one.attrs = {**df.attrs, "sweeps": [{"name": "x", "folder": None}]}
    with pytest.raises(ConfigError, match="nothing was searched"):
        advice.advise(one, GOALS, scales)
    with pytest.raises(ConfigError, match=r"config is not available.*folder, not its name"):
        advice.write_config(one, advice.Advice((), ({"prune.target": 0.5},)), tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()
