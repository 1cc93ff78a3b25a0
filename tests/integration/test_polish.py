"""Choose, then train properly: a sweep of paths, the printed command, and what it leaves, through the commands only."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import pytest

from sweeps.config.sweep_config import load_config
from tests.integration import drivers
from tests.integration.programs import call, sweep_in_process
from tests.proofs import proven_here

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
CONFIG = """
name: way
data: {name: digits, val_share: 0.25, train_images: 400}
model: {name: vgg_tiny, width: 0.25}
train: {schedule: cycles, batch_size: 64}
prune: {start: 2, interval: 2, ratio: {low: 0.3, high: 0.6, step: 0.1}, target: 0.6, min_share: 0.03}
baseline: {epochs: 4}
search: {trials: 2, concurrency: 2}
"""
#: ``gcp-sweep`` as a script, whose messages are read line by line.
SAYS_ALL = f"import sys; sys.stderr = sys.stdout; {drivers.PROGRAM}"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("storage")
    (storage / "way.yaml").write_text(CONFIG)
    return sweep_in_process(load_config(storage / "way.yaml", {"storage": str(storage)}))


def test_the_printed_command_makes_a_model_that_is_chosen_exported_and_replayed(sweep, tmp_path):
    words = ["macs <= 70%", "--best", "accuracy"]
    answer = json.loads(call("gcp-analyze", "select", str(sweep), *words, "--polish", "6", "--json"))
    source, command = answer["chosen"][0], shlex.split(answer["polish"])
    before = json.loads(call("gcp-analyze", "front", str(sweep), "--json"))["counts"]

    # Killed in the middle by the system, then called again.
    assert command[0] == "gcp-sweep"
    killed = drivers.start(SAYS_ALL, command[1:])
    for _, line in zip(range(3), killed.stdout, strict=False):
        assert line.startswith("epoch")
    killed.kill()
    assert killed.wait(300) == -signal.SIGKILL
    done = json.loads(call(*command, "--json"))
    assert (done["model"], done["status"]) == (f"{source['model']}+6", "complete")
    assert 0 < done["trained_epochs"] < 6
    share = source["macs_kept"]
    assert done["finals"]["train_cost"] == pytest.approx(source["train_cost"] + 6 * share)

    after = json.loads(call("gcp-analyze", "front", str(sweep), "--json"))["counts"]
    assert (after["trials"], after["models"]) == (before["trials"], before["models"] + 1)
    out = tmp_path / "model"
    with proven_here():
        call("gcp-analyze", "export", str(sweep), "--id", done["model"], "--out", str(out))
    assert json.loads((out / "manifest.json").read_text())["polish"]["epochs"] == 6
    replayed = json.loads(call("gcp-sweep", "replay", str(sweep), done["model"], "--json"))
    assert (replayed["equal"], replayed["weights_sha256"]) == (True, done["weights_sha256"])
    assert json.loads(call(*command, "--json"))["trained_epochs"] == 0


def test_a_sweep_that_was_polished_goes_on_with_more_paths(sweep):
    folder = sweep.parent
    asked = ["gcp-analyze", "select", str(sweep), "--best", "accuracy", "--json"]
    before = json.loads(call(*asked))["counts"]
    done = drivers.run(drivers.PROGRAM, ["run", folder / "way.yaml", f"storage={folder}", "search.trials=3"])
    assert done.returncode == 0, done.stdout + done.stderr
    after = json.loads(call(*asked))["counts"]
    assert after["trials"] == after["complete"] == before["trials"] + 1
    assert after["models"] > before["models"]
