from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from gcp_core.errors import ConfigError
from sweeps.driver.capacity import bundles, places
from sweeps.driver.nodes import (
    check_resources,
    check_shared,
    data_paths,
    demands,
    idle_gpus,
    own_packages,
    wrong_clocks,
)
from sweeps.worker.node import Demands, Node, check_nodes, describe
from tests.sweeps.inline import config


def _node(name: str, **more: float) -> dict[str, object]:
    return {"NodeManagerAddress": name, "Resources": more}


def test_too_few_cpus_for_one_trial_are_refused(tmp_path: Path) -> None:
    nodes = [_node("head"), _node("a", CPU=2.0)]
    with pytest.raises(ConfigError, match=r"resources\.cpus: 8 CPUs per trial, but no node has more than 2"):
        check_resources(config(tmp_path, {"resources.cpus": 8}), nodes)
    with pytest.raises(
        ConfigError, match=r"\(resources\.cpus is for one trial; search\.concurrency says how many"
    ):
        check_resources(config(tmp_path, {"resources.cpus": 8}), nodes)
    check_resources(config(tmp_path, {"resources.cpus": 2}), nodes)


@pytest.mark.parametrize(("head", "wanted"), [({}, {}), ({"CPU": 4.0}, {"resources.gpus": 1})])
def test_where_no_node_can_train_yet_an_autoscaler_is_to_keep_one(
    tmp_path: Path, head: dict[str, float], wanted: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=r"where an autoscaler starts nodes, let it keep one that has room"):
        check_resources(config(tmp_path, wanted), [_node("head", **head)])


def test_too_few_gpus_for_one_trial_are_refused_and_a_share_of_one_is_enough(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"resources\.gpus: 0.5 GPUs per trial, but no node has more than 0 \(0 trains on the CPU",
    ):
        check_resources(config(tmp_path, {"resources.gpus": 0.5}), [_node("a", CPU=2.0)])
    check_resources(config(tmp_path, {"resources.gpus": 0.5}), [_node("a", CPU=2.0, GPU=1.0)])


def test_cpus_and_gpus_must_be_on_one_node(tmp_path: Path) -> None:
    nodes = [_node("a", CPU=8.0), _node("b", CPU=1.0, GPU=1.0)]
    wanted = config(tmp_path, {"resources.cpus": 4, "resources.gpus": 1})
    with pytest.raises(ConfigError, match="resources: no node has 4 CPUs and 1 GPUs at once"):
        check_resources(wanted, nodes)


def test_gpus_of_which_no_trial_gets_any_are_named(tmp_path: Path) -> None:
    nodes = [_node("a", CPU=8.0, GPU=4.0), _node("b", CPU=8.0, GPU=1.0), _node("c", CPU=8.0)]
    said = idle_gpus(config(tmp_path), nodes)
    assert said.startswith("5 GPUs are not used: resources.gpus is 0, so trials run on CPUs")
    assert "resources.gpus=1" in said
    assert "train.device=cpu silences this" in said


@pytest.mark.parametrize(
    "overrides", [{"resources.gpus": 1}, {"resources.gpus": 0.25}, {"train.device": "cpu"}]
)
def test_of_gpus_that_are_used_or_not_wanted_nothing_is_said(
    tmp_path: Path, overrides: dict[str, object]
) -> None:
    assert idle_gpus(config(tmp_path, overrides), [_node("a", CPU=8.0, GPU=4.0)]) == ""


def test_where_there_is_no_gpu_nothing_is_said(tmp_path: Path) -> None:
    assert idle_gpus(config(tmp_path), [_node("a", CPU=8.0)]) == ""


def test_local_storage_with_a_remote_node_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shared(
            str(tmp_path / "runs"), lambda path: [("10.0.0.1", os.path.exists(path)), ("10.0.0.2", False)]
        )
    assert "is local: 1 node(s) of the cluster cannot see it (10.0.0.2)" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    check_shared(str(tmp_path / "runs"), lambda path: [("10.0.0.1", os.path.exists(path))])


def test_a_machine_says_which_versions_it_has_and_what_it_does_not_see(tmp_path: Path) -> None:
    here = describe("here", [str(tmp_path), str(tmp_path / "missing")])
    assert here.missing == (str(tmp_path / "missing"),)
    assert set(here.versions) == {"Python", "torch", "torchvision", "numpy", "our code"}
    assert here.versions["our code"] == describe("again", []).versions["our code"]
    check_nodes(here, [describe("there", [str(tmp_path)])])


def test_another_version_on_a_node_is_refused_with_both_versions() -> None:
    driver = Node("the driver", {"torch": "2.15.0", "our code": "aaa"})
    nodes = [Node("10.0.0.1", driver.versions), Node("10.0.0.2", {"torch": "2.14.0", "our code": "aaa"})]
    with pytest.raises(ConfigError) as caught:
        check_nodes(driver, nodes)
    assert str(caught.value) == (
        "--address: nodes differ: 10.0.0.2 has torch 2.14.0, the driver 2.15.0"
        " (install the same versions on every node)"
    )


def test_other_code_on_a_node_is_refused() -> None:
    driver = Node("the driver", {"our code": "aaa"})
    with pytest.raises(ConfigError, match=r"10\.0\.0\.2 has our code bbb, the driver aaa"):
        check_nodes(driver, [Node("10.0.0.2", {"our code": "bbb"})])


def test_a_node_without_our_code_is_refused_with_its_own_words() -> None:
    nodes = [Node("10.0.0.2", error="ModuleNotFoundError: No module named 'sweeps'")]
    with pytest.raises(
        ConfigError, match=r"1 node\(s\) cannot run this project's code \(10.0.0.2: ModuleNotFoundError"
    ):
        check_nodes(Node("the driver"), nodes)


def test_data_that_a_node_does_not_see_is_named_with_the_node() -> None:
    nodes = [Node("10.0.0.1"), Node("10.0.0.2", missing=("/data/cifar10",))]
    with pytest.raises(
        ConfigError, match=r"data\.path: data is missing on at least one node: 10.0.0.2 has no /data/cifar10"
    ):
        check_nodes(Node("the driver"), nodes)


def test_a_package_of_the_users_own_that_a_node_does_not_know_is_named_with_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"model.name": {"choice": ["my_nets.small:net", "vgg_tiny"]}, "train.penalty": "my_terms:term"}
    packages = own_packages(config(tmp_path, own))
    assert packages == ["my_nets", "my_terms"]
    node = describe("10.0.0.2", [], packages)
    assert node.unknown == ("my_nets", "my_terms")
    with pytest.raises(
        ConfigError, match=r"missing on at least one node: 10\.0\.0\.2 has no my_nets; 10\.0\.0\.2 has"
    ):
        check_nodes(Node("the driver", node.versions), [node])
    (tmp_path / "my_nets").mkdir()
    (tmp_path / "my_nets" / "__init__.py").write_text("raise RuntimeError('nobody asked for an import')")
    (tmp_path / "my_terms.py").write_text("raise RuntimeError('nobody asked for an import')")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_nodes(Node("the driver", node.versions), [describe("10.0.0.2", [], packages)])


def test_what_the_driver_does_not_know_either_is_not_the_nodes_fault() -> None:
    """Its own preflight says what is wrong with a name; a name may also be no package at all."""
    check_nodes(Node("the driver", unknown=("C",)), [Node("10.0.0.2", unknown=("C",))])


def test_every_place_of_the_data_is_asked_for(tmp_path: Path) -> None:
    assert data_paths(config(tmp_path)) == []  # the digits are bundled
    paths = {"data.name": "parquet", "data.path": {"choice": [f"{tmp_path}/a", f"{tmp_path}/b"]}}
    assert data_paths(config(tmp_path, paths)) == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_a_file_of_weights_to_begin_with_is_asked_for_like_the_data(tmp_path: Path) -> None:
    weights = {"model.weights": {"choice": [f"{tmp_path}/one.pt", f"{tmp_path}/two.pt"]}}
    assert data_paths(config(tmp_path, weights)) == [f"{tmp_path}/one.pt", f"{tmp_path}/two.pt"]
    (tmp_path / "one.pt").touch()
    node = describe("10.0.0.2", data_paths(config(tmp_path, weights)))
    with pytest.raises(
        ConfigError, match=r"10\.0\.0\.2 has no .*/two\.pt \(what data\.path and model\.weights"
    ):
        check_nodes(Node("the driver", node.versions), [node])


def test_a_node_that_joins_later_is_asked_for_what_the_others_were_asked_for(tmp_path: Path) -> None:
    own = {"model.name": "my_nets.small:net", "model.weights": f"{tmp_path}/one.pt"}
    here = os.uname().nodename
    asked = demands(config(tmp_path, own))
    wanted = Demands.from_json(asked.to_json())
    assert wanted == asked
    assert wanted.lacking(here) == "", "the driver's own machine is the measure"
    assert wanted.lacking("late").startswith("data is missing on at least one node: late has no ")
    knows_more = dataclasses.replace(wanted, driver=dataclasses.replace(wanted.driver, unknown=()))
    assert "package that the config names is missing on at least one node: late has no my_nets" in (
        knows_more.lacking("late")
    )
    newer = dataclasses.replace(wanted, driver=Node(here, {**wanted.driver.versions, "torch": "9.9"}))
    assert newer.lacking("late").startswith("nodes differ: late has torch ")
    (tmp_path / "one.pt").touch()
    assert wanted.lacking("late") == ""


def test_a_node_whose_clock_is_far_off_is_named_and_used() -> None:
    """Its answer came between the question and the last answer; what may have passed on the way counts for it."""
    clocks = {"good": 1005.0, "slow to answer": 1099.0, "tomorrow": 87_500.0, "yesterday": -85_000.0}
    nodes = [*(Node(name, clock=clock) for name, clock in clocks.items()), Node("silent", error="gone")]
    assert [sentence.partition(":")[0] for sentence in wrong_clocks(1000.0, nodes, 1100.0)] == [
        "the clock of tomorrow is 86,400 s ahead of the driver's",
        "the clock of yesterday is 86,000 s behind the driver's",
    ]
    before = time.time()
    assert before <= describe("here", []).clock <= time.time()


def test_a_trial_has_a_bundle_for_each_process_all_on_one_node(tmp_path: Path) -> None:
    four = bundles(config(tmp_path, {"resources.cpus": 8, "resources.gpus": 4}))
    assert four == {"bundles": [{"CPU": 2.0, "GPU": 1.0}] * 4, "strategy": "STRICT_PACK"}
    assert bundles(config(tmp_path, {"resources.cpus": 2})) == {"bundles": [{"CPU": 2.0}], "strategy": "PACK"}


def test_more_gpus_per_trial_than_any_node_has_are_refused(tmp_path: Path) -> None:
    nodes = [_node("a", CPU=8.0, GPU=2.0), _node("b", CPU=8.0, GPU=2.0)]
    with pytest.raises(ConfigError, match=r"resources\.gpus: 4 GPUs per trial, but no node has more than 2"):
        check_resources(config(tmp_path, {"resources.gpus": 4}), nodes)
    check_resources(config(tmp_path, {"resources.gpus": 2}), nodes)


def test_a_trial_that_may_be_spread_needs_places_on_all_nodes_together(tmp_path: Path) -> None:
    nodes = [_node("a", CPU=8.0, GPU=2.0), _node("b", CPU=8.0, GPU=2.0), _node("c", CPU=1.0, GPU=4.0)]
    four = config(tmp_path, {"resources.gpus": 4, "resources.cpus": 8, "resources.spread": True})
    assert bundles(four) == {"bundles": [{"CPU": 2.0, "GPU": 1.0}] * 4, "strategy": "PACK"}
    check_resources(four, nodes)  # two on a, two on b; c has GPUs, and no CPU for them
    said = r"resources: 4 processes per trial \(CPU 2, GPU 1 each\), but all nodes together have places for 2"
    with pytest.raises(ConfigError, match=said):
        check_resources(four, nodes[1:])


def test_that_processes_may_be_spread_is_said_where_one_node_has_too_little(tmp_path: Path) -> None:
    nodes = [_node("a", CPU=8.0, GPU=2.0), _node("b", CPU=8.0, GPU=2.0)]
    with pytest.raises(
        ConfigError, match=r"resources\.spread: true lets a trial's processes be on several nodes"
    ):
        check_resources(config(tmp_path, {"resources.gpus": 4}), nodes)


def test_thirds_of_a_cpu_add_up(tmp_path: Path) -> None:
    three = config(tmp_path, {"train.processes": 3, "train.batch_size": 48, "resources.cpus": 1})
    assert places(three, [_node("a", CPU=1.0)]) == 3
