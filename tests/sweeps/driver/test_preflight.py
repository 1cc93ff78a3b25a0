from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError, InfeasibleTarget
from sweeps.driver.preflight import (
    check_disk,
    check_driver,
    check_space,
    check_storage,
    check_tracking,
    leftovers,
)
from sweeps.storage.exchange import Exchange
from sweeps.storage.lock import run_lock
from tests.sweeps.inline import config


def _needs_small_target(limit: float, ratio: float = 0.0):
    def check(trial: TrialConfig) -> None:
        if trial.prune.target > limit or trial.prune.ratio < ratio:
            raise InfeasibleTarget(f"{trial.prune.target} is too much", "prune.target", "lower it")

    return check


def test_a_space_with_one_feasible_corner_passes_and_its_other_corners_are_returned(tmp_path: Path) -> None:
    unreachable = check_space(config(tmp_path), _needs_small_target(0.5))
    assert {point["prune.target"] for point, _ in unreachable} == {0.9}


def test_a_feasible_combination_of_extremes_is_found_where_no_single_change_helps(tmp_path: Path) -> None:
    # First values: interval 1, ratio 0.1, target 0.3. Only ratio 0.4 AND interval 4 together are feasible here.
    def check(trial: TrialConfig) -> None:
        if not (trial.prune.ratio == 0.4 and trial.prune.interval == 4 and trial.prune.target == 0.3):
            raise InfeasibleTarget("too much", "prune.target", "")

    assert len(check_space(config(tmp_path), check)) == len(config(tmp_path).space.corners())


def test_a_target_impossible_at_every_corner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleTarget) as caught:
        check_space(config(tmp_path), _needs_small_target(0.2))
    assert str(caught.value).startswith(
        "prune.target: no point of the search space can reach its target; 0.3 is too much"
    )


def test_a_config_without_pruning_leaves_nothing_to_search(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prune: null leaves nothing to search"):
        check_space(config(tmp_path, {"prune": None}), lambda trial: None)


def test_a_factory_of_the_script_or_notebook_itself_is_refused(tmp_path: Path) -> None:
    """Trials run in other processes; there it would fail each of them, and asking nodes for it failed the sweep."""
    with pytest.raises(ConfigError, match=r"__main__: is the program that was started; .*my_module:factory"):
        check_space(config(tmp_path, {"model.name": "__main__:net"}), lambda trial: None)


def test_storage_below_a_file_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ConfigError, match=r"storage: .*file is not a folder \(storage=FOLDER chooses another place\)"
    ):
        check_storage(str(tmp_path / "file" / "runs" / "name"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_storage_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"storage: /proc.* cannot be written"):
        check_storage("/proc/1/runs")


def test_good_storage_leaves_no_trace(tmp_path: Path) -> None:
    check_storage(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_server_that_does_not_answer_is_refused_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError) as caught:
        check_tracking(f"http://127.0.0.1:{port}")
    assert "does not answer: [Errno 111] Connection refused" in str(caught.value)
    assert caught.value.where == "tracking.uri"


@contextlib.contextmanager
def _server(answer: Callable[[Message], int]) -> Iterator[str]:
    """A server on loopback that answers a request with these headers with that status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer(self.headers))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def test_a_server_that_refuses_the_host_name_gets_its_own_advice() -> None:
    with (
        _server(lambda headers: 403) as uri,
        pytest.raises(
            ConfigError, match=r"rejects this host name \(403\) \(start the server with --allowed-hosts"
        ),
    ):
        check_tracking(uri)


def test_other_answers_are_named_and_a_404_is_an_answer() -> None:
    with _server(lambda headers: 500) as uri, pytest.raises(ConfigError, match="server answers 500"):
        check_tracking(uri)
    with _server(lambda headers: 404) as uri:
        check_tracking(f"{uri}/")


@pytest.mark.parametrize(
    ("variables", "header"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic YWRhOnB3"),
        ({"MLFLOW_TRACKING_TOKEN": "word"}, "Bearer word"),
    ],
)
def test_a_server_behind_a_login_is_asked_with_the_credentials_of_mlflow(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], header: str
) -> None:
    with _server(lambda headers: 200 if headers["Authorization"] == header else 401) as uri:
        with pytest.raises(ConfigError, match=r"rejects the credentials.*\(401\) \(MLFLOW_TRACKING_USERNAME"):
            check_tracking(uri)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        check_tracking(uri)


def test_a_folder_is_no_tracking_server() -> None:
    with pytest.raises(
        ConfigError, match=r"tracking\.uri: './mlruns' is not the address of a tracking server"
    ):
        check_tracking("./mlruns")


def test_too_little_disk_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=30_000_000))
    with pytest.raises(ConfigError) as caught:
        check_disk(str(tmp_path / "runs" / "x"), needed=2_500_000_000)
    assert str(caught.value).startswith(
        f"storage: 30 MB are free at {tmp_path}, about 2,500 MB are needed (storage=FOLDER"
    )
    with pytest.raises(ConfigError, match="about 100 MB are needed"):
        check_disk(str(tmp_path))
    check_disk(str(tmp_path), needed=30_000_000)


def test_check_compares_the_disk_with_what_the_whole_sweep_would_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    import sweeps.commands.forecast
    from sweeps.cli import main

    path = tmp_path / "sweep.yaml"
    prune = {"criterion": "l1", "ratio": {"choice": [0.2, 0.3]}, "interval": 1, "target": 0.3, "until": 1.0}
    tree = {"name": "x", "train": {"epochs": 4}, "prune": prune}
    path.write_text(json.dumps(tree))
    words = ["check", str(path), f"storage={tmp_path}/runs", "search.trials=2", "data.train_images=200"]
    fine = CliRunner().invoke(main, words)
    assert (fine.exit_code, fine.output) == (0, f"ok: {tmp_path}/runs/x can be run\n")
    monkeypatch.setattr(sweeps.commands.forecast, "_disk", lambda *args: 10**18)
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "about 1,000,000,000,000 MB are needed" in refused.stderr


def test_a_sweep_that_somebody_runs_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    check_driver(Exchange(tmp_path / "nothing" / "there"))
    with (
        run_lock(tmp_path),
        pytest.raises(
            ConfigError, match=f"{tmp_path}: another driver is running the sweep: process {os.getpid()} on"
        ),
    ):
        check_driver(Exchange(tmp_path))
    check_driver(Exchange(tmp_path))


def test_stale_locks_and_stray_mlflow_files_are_pointed_out(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    assert leftovers(str(folder), str(tmp_path)) == []
    (folder / "journal.log.lock").touch()
    (tmp_path / "mlruns").mkdir()
    stale, stray = leftovers(str(folder), str(tmp_path))
    assert stale == "journal.log.lock was left by a driver that was killed; run removes it"
    assert stray.startswith(f"{tmp_path}/mlruns is not this sweep's: MLflow shows it if")
