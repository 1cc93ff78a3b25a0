"""A real sweep that is watched and served while it runs, by processes that have nothing to do with its driver."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.commands.status import sweep_status
from tests.integration.gated_criterion import GATE, until
from tests.integration.programs import PROGRAMS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CONFIG = """
name: live
data: {name: digits, val_share: 0.25, train_images: 300}
model: {name: vgg_tiny, width: 0.25}
train: {schedule: cycles, batch_size: 64}
prune:
  criterion: tests.integration.gated_criterion:gated_l1
  start: 2
  interval: {choice: [1, 2, 3]}
  ratio: {choice: [0.4, 0.5]}
  target: 0.6
search: {trials: 4, concurrency: 1, sampler: random}
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts one of our programs; what still runs at the end of the test is ended."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [PROGRAMS / words[0], *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def test_a_sweep_is_watched_to_its_end_and_served_and_a_view_that_is_interrupted_disturbs_nobody(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "live.yaml").write_text(CONFIG)
    folder, gate = tmp_path / "live", tmp_path / "gate"
    monkeypatch.setenv(GATE, str(gate))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the criterion is here
    driver = start("gcp-sweep", "run", str(tmp_path / "live.yaml"), f"storage={tmp_path}")
    until(lambda: (folder / "run.lock").exists() or driver.poll() is not None)
    impatient = start("gcp-sweep", "status", str(folder), "--watch")
    assert impatient.stdout.readline()
    impatient.send_signal(signal.SIGINT)
    _, errors = impatient.communicate(timeout=300)
    assert (impatient.returncode, errors) == (1, "the view has ended; the sweep continues\n")

    watched = start("gcp-sweep", "status", str(folder), "--watch")
    served = start("gcp-analyze", "report", str(folder), "--serve", "--port", "0")
    gate.touch()
    url = served.stdout.readline().split()[1]
    assert url.startswith("http://127.0.0.1:")

    said = set()

    def ended() -> bool:
        said.add(_news(url)["said"])
        return any("has ended" in words for words in said)

    output, errors = watched.communicate(timeout=600)
    assert watched.returncode == 0, errors
    lines = output.splitlines()
    assert lines[-1].startswith("live: complete, 4 of 4 trials ended, hypervolume 0.")
    results = [line.split("] ")[1].split()[:2] for line in lines if line.startswith("[")]
    assert sorted(results)[-4:] == [[f"t{number:04d}", "complete"] for number in range(4)]
    output, errors = driver.communicate(timeout=300)
    assert driver.returncode == 0, errors
    assert "live: complete (4 complete)" in output
    assert sweep_status(folder).statuses == {"complete": 4}
    assert not [name for name in output.splitlines() if "stopping" in name]

    until(ended)
    page = urllib.request.urlopen(url, timeout=60)
    assert b"t0003@" in page.read()
    asked = urllib.request.Request(url, headers={"If-None-Match": page.headers["ETag"]})
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        urllib.request.urlopen(asked, timeout=60)
    assert unchanged.value.code == 304
    served.send_signal(signal.SIGINT)
    _, errors = served.communicate(timeout=60)
    assert (served.returncode, errors) == (0, "stopped serving\n")


def _news(url: str) -> dict:
    with urllib.request.urlopen(f"{url}news", timeout=120) as answer:
        return json.load(answer)
