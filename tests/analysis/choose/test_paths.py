"""Choosing among the snapshots of paths, writing the config of one, and what to try next."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from analysis.choose import advice, recipe
from analysis.choose.select import choose
from analysis.choose.verbs import parse_verb
from analysis.cli.program import main
from analysis.front import pareto
from analysis.front.anchors import anchors_for
from analysis.runs.models import row_of
from gcp_core.config import TrialConfig
from gcp_core.training.trial import run_trial
from tests.analysis.conftest import PATH
from tests.analysis.synthetic import path_of

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"
GOALS = {"val_accuracy": "max", "macs": "min"}


def invoke(*words) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("verb", "chosen"),
    [
        ({"best": "accuracy"}, "t0000@1"),
        ({"cheapest": "macs"}, "t0000@6"),
        ({"knee": True}, "t0000@4"),
        ({"nearest": "macs=20%"}, "t0000@4"),
        ({"weighted": "accuracy=1 macs=0"}, "t0000@1"),
        ({"lexicographic": "accuracy:1 macs"}, "t0000@3"),
        ({"id": "t0003@4"}, "t0003@4"),
    ],
)
def test_every_verb_chooses_a_snapshot_and_names_it(of_paths, verb, chosen):
    choice = choose(of_paths, [], parse_verb(verb))
    assert choice.model == chosen
    assert choice.trial == chosen[:5]
    assert choice.reason.startswith(chosen)
    assert "models" in choice.reason or "id" in verb
    assert chosen not in set(choice.runners_up["model"])


def test_representatives_of_the_front_are_snapshots(of_paths):
    choice = choose(of_paths, [], parse_verb({"top": 3}))
    assert len(set(choice.rows["model"])) == 3
    assert set(choice.rows["model"]) <= set(pareto.front(of_paths, GOALS)["model"])


def test_select_and_front_answer_with_models(paths):
    code, out, _ = invoke("select", paths, "macs <= 50%", "--best", "accuracy", "--json")
    answer = json.loads(out)
    jsonschema.validate(answer, json.loads((SCHEMAS / "select.json").read_text()))
    (chosen,) = answer["chosen"]
    assert (code, chosen["model"], chosen["trial"], chosen["level"]) == (0, "t0000@2", "t0000", 2)
    code, out, _ = invoke("front", paths, "--json")
    answer = json.loads(out)
    jsonschema.validate(answer, json.loads((SCHEMAS / "front.json").read_text()))
    assert {row["trial"] for row in answer["front"]} == {"t0000"}
    assert answer["counts"]["trials"] == 4
    assert answer["counts"]["models"] == 26
    code, out, _ = invoke("front", paths)
    assert out.split()[0] == "model"
    assert "t0000@3" in out
    assert "of 26 finished models on the front" in out


def test_a_snapshot_that_is_not_there_is_answered_with_those_that_are(paths):
    code, _, err = invoke("select", paths, "--id", "t0001@9")
    assert code == 2
    assert "t0001@9: the path has 5 snapshots, t0001@0 .. t0001@4" in err
    code, _, err = invoke("select", paths, "--id", "t0001")
    assert code == 2
    assert "t0001: is a path with 5 snapshots, t0001@0 .. t0001@4" in err
    code, _, err = invoke("select", paths, "macs <= 10%", "--id", "t0001@0")
    assert code == 3, "it is there, but not feasible"


# --- the config of a snapshot ---------------------------------------------------------------------------------------


def test_the_config_of_a_snapshot_is_its_path_cut_there(of_paths, tmp_path):
    file = tmp_path / "best.yaml"
    fresh = recipe.write_config(of_paths, row_of(of_paths, "t0000@3"), file)
    document = yaml.safe_load(file.read_text())
    assert fresh == [8, 9, 10], "the confirm run had seed 7"
    assert document["name"] == "paths-t0000-3"
    assert document["prune"]["levels"] == [0.3, 0.5, 0.65]
    assert document["train"]["epochs"] is None
    assert file.read_text().startswith("# The path that ends with the snapshot t0000@3 of sweep paths")
    recipe.write_config(of_paths, row_of(of_paths, "t0000@3"), file, epochs=44)
    document = yaml.safe_load(file.read_text())
    assert (document["prune"]["start"], document["prune"]["interval"]) == (8, 12), "22 epochs before"


@pytest.mark.parametrize(
    "prune",
    [
        {"levels": (0.3, 0.5)},
        {"levels": None, "ratio": 0.3, "ratio_of": "cost", "target": 0.6},
        {"levels": None, "ratio": 0.3, "ratio_of": "units", "target": 0.6},
    ],
    ids=["levels", "ratio of cost", "ratio of units"],
)
def test_the_config_of_every_snapshot_trains_the_same_weights_and_ends(prune, tmp_path):
    torch.set_num_threads(1)
    config = dataclasses.replace(PATH, prune=dataclasses.replace(PATH.prune, **prune))
    whole = run_trial(config, checkpoint_dir=tmp_path / "sweeps" / "trials" / "t0000")
    assert len(whole.snapshots) > 2
    rows = pd.DataFrame(
        [
            {
                "sweep": "s",
                "trial": "t0000",
                "model": f"t0000@{s.level}",
                "level": s.level,
                "seed": 0,
                "run_id": "",
                **s.finals,
            }
            for s in whole.snapshots
        ]
    )
    rows.attrs = {"sweeps": [{"name": "s", "folder": str(tmp_path / "sweeps")}], "objectives": GOALS}
    for snapshot in whole.snapshots:
        recipe.write_config(rows, rows.iloc[snapshot.level], tmp_path / "one.yaml", seeds=1)
        document = yaml.safe_load((tmp_path / "one.yaml").read_text())
        parts = {name: document[name] for name in ("data", "model", "train", "prune")}
        again = run_trial(TrialConfig.from_dict({**parts, "seed": 0}))
        assert [s.level for s in again.snapshots] == list(range(snapshot.level + 1))
        assert again.weights_sha256 == snapshot.weights_sha256


# --- what next ------------------------------------------------------------------------------------------------------


def searched(df: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with a config that searched interval, levels and target."""
    tree = {
        "name": "paths",
        "prune": {
            "interval": {"choice": [4, 6, 8]},
            "levels": {"choice": [[0.3, 0.5], list(path_of("t0000").config.prune.levels)]},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    df.attrs["sweeps"][0]["folder"] = str(folder)
    return df


def test_between_snapshots_of_one_path_the_advice_moves_one_parameter(of_paths, tmp_path):
    df = searched(of_paths, tmp_path)
    found = advice.advise(df, GOALS, anchors_for(df, GOALS))
    assert all("@" in gap.cheaper and "@" in gap.dearer for gap in found.gaps)
    whole = list(path_of("t0000").config.prune.levels)
    assert {json.dumps(point) for point in found.points} == {
        json.dumps({"prune.interval": 8, "prune.levels": whole}),
        json.dumps({"prune.interval": 6, "prune.levels": [0.3, 0.5]}),
    }, "interval 4 has run"


def test_the_ratio_is_moved_first_downwards_and_words_last(of_paths):
    ranges = {
        "prune.criterion": {"choice": ["frs", "l1"]},
        "prune.interval": {"low": 2, "high": 10, "step": 2},
        "prune.ratio": {"low": 0.1, "high": 0.5, "step": 0.1},
        "seed": {"choice": [0, 1]},
    }
    row = of_paths.set_index("model", drop=False).loc["t0000@2"].copy()
    row["prune.ratio"] = 0.3
    changed = [
        next(
            (path, value)
            for path, value in point.items()
            if value != (row["seed"] if path == "seed" else row[path])
        )
        for point in advice._aims(row, row, ranges)
    ]
    assert changed == [
        ("prune.ratio", 0.2),
        ("prune.ratio", 0.4),
        ("prune.interval", 4),
        ("prune.interval", 8),
        ("prune.criterion", "l1"),
    ]


def test_a_searched_target_of_paths_is_proposed_at_its_upper_end(of_paths):
    df = of_paths
    ranges = {"prune.interval": {"choice": [4, 5, 6]}, "prune.target": {"low": 0.3, "high": 0.95}}
    rows = df.set_index("model", drop=False)
    between = list(advice._aims(rows.loc["t0001@4"], rows.loc["t0000@3"], ranges))
    assert between[0] == {"prune.interval": 5, "prune.target": 0.95}
