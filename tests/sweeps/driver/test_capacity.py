"""A cluster that shrinks below what a trial needs is waited for, and the user is told."""

from pathlib import Path
from typing import Any

from sweeps.driver.capacity import EVERY_S, Capacity
from tests.sweeps.inline import config


def _node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


def _watched(
    tmp_path: Path, nodes: list[dict[str, Any]], **more: Any
) -> tuple[Capacity, list[str], list[float]]:
    told: list[str] = []
    clock = [0.0]
    wanted = config(tmp_path, {"resources.cpus": 2, **more})
    return Capacity(wanted, lambda: nodes, told.append, lambda: clock[0]), told, clock


def test_it_says_once_that_no_node_can_run_a_trial_and_once_that_one_can_again(tmp_path: Path) -> None:
    nodes = [_node(CPU=1.0), _node(CPU=2.0)]
    capacity, told, clock = _watched(tmp_path, nodes)
    clock[0] += EVERY_S
    capacity.look()
    assert not told
    nodes[1]["Alive"] = False
    for _ in range(3):
        clock[0] += EVERY_S
        capacity.look()
    assert len(told) == 1
    assert "no node of the cluster has 2 CPU(s) any more (1 node(s) alive)" in told[0]
    nodes.append(_node(CPU=4.0))
    clock[0] += EVERY_S
    capacity.look()
    assert told[1:] == [f"a node with 2 CPU(s) is back after {3 * EVERY_S:.0f} s: going on"]


def test_a_trial_that_is_spread_waits_until_all_its_processes_have_a_place(tmp_path: Path) -> None:
    nodes = [_node(CPU=1.0), _node(CPU=1.0)]
    spread = {"train.processes": 2, "resources.spread": True}
    capacity, told, clock = _watched(tmp_path, nodes, **spread)
    clock[0] += EVERY_S
    capacity.look()
    assert not told
    nodes[1]["Alive"] = False
    clock[0] += EVERY_S
    capacity.look()
    assert "the cluster has no room for the 2 processes of a trial any more (1 node(s) alive)" in told[0]
    nodes[1]["Alive"] = True
    clock[0] += EVERY_S
    capacity.look()
    assert told[1:] == [f"room for the 2 processes of a trial is back after {EVERY_S:.0f} s: going on"]


def test_the_cluster_is_not_asked_at_every_step_of_the_driver(tmp_path: Path) -> None:
    asked = []

    def nodes() -> list[dict[str, Any]]:
        asked.append(1)
        return [_node(CPU=2.0)]

    clock = [0.0]
    capacity = Capacity(config(tmp_path, {"resources.cpus": 2}), nodes, print, lambda: clock[0])
    for _ in range(100):
        clock[0] += EVERY_S / 40
        capacity.look()
    assert len(asked) == 2
