"""Finds mistakes before anything is written or computed; every check raises ConfigError with a remedy."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError, InfeasibleTarget, first_line
from sweeps.config.paths import is_of_paths
from sweeps.config.space import CORNERS, Point
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver.nodes import own_packages
from sweeps.records.database import open_storage
from sweeps.records.folder import as_begun, check_unchanged, read_config, read_entry
from sweeps.records.layout import JOURNAL
from sweeps.records.ledger import read_records
from sweeps.storage.exchange import Exchange
from sweeps.storage.lock import driver_of
from sweeps.storage.objects import check_store

_TIMEOUT_S = 5.0
_MB = 1_000_000
#: With less than this no sweep is begun, whatever it needs.
_LEAST_FREE = 100 * _MB


def continued(config: SweepConfig) -> SweepConfig:
    """The config as an existing sweep may continue with it; a new sweep's as it is.

    Raises:
        ConfigError: something differs that may not, or fewer paths are asked for than have started.
    """
    check_unchanged(config)
    _check_started(config)
    return as_begun(config)


def _check_started(config: SweepConfig) -> None:
    """``search.trials`` counts paths that have started, so it cannot be lower than their number."""
    folder, asked = Path(config.folder), config.search.trials
    if asked is None or not is_of_paths(config.tree) or read_entry(folder) is None:
        return
    before = read_config(folder).search.trials
    if before is not None and asked >= before:
        return
    (trials,) = read_records(folder, config.name, config.search.objectives, ("trial",), config.database)
    if asked < len(trials):
        number = "1 path has" if len(trials) == 1 else f"{len(trials)} paths have"
        raise ConfigError(
            f"{asked} is fewer than the trials that have already started: {number}",
            "search.trials",
            f"at least {len(trials)}; search.hours, search.device_hours and search.min_gain end a sweep early",
        )


def check_space(
    config: SweepConfig, check: Callable[[TrialConfig], None]
) -> list[tuple[Point, InfeasibleTarget]]:
    """Run ``check`` at the corners of the space; corners with an unreachable target are returned.

    Raises:
        InfeasibleTarget: every corner's target is out of reach, so no trial could be run.
        ConfigError, DataError, ModelError: whatever else ``check`` finds, at the first corner it finds it.
    """
    if config.tree["prune"] is None:
        raise ConfigError(
            "null leaves nothing to search", "prune", "`gcp-sweep trial` trains only a baseline"
        )
    unreachable: list[tuple[Point, InfeasibleTarget]] = []
    _check_modules(config)
    corners = config.space.corners()
    for point in corners:
        try:
            check(config.space.resolve(point, config.resources.cpus))
        except InfeasibleTarget as exc:
            unreachable.append((point, exc))
    if unreachable and len(unreachable) == len(corners):
        _require_one(config, check, unreachable[0][1])
    return unreachable


def _check_modules(config: SweepConfig) -> None:
    """Here ``__main__`` is the script or notebook, in a trial's process it is another program."""
    if "__main__" in own_packages(config):
        message = (
            "is the program that was started; trials run in processes of their own, which do not have it"
        )
        raise ConfigError(message, "__main__", "put the factory into a module: my_module:factory")


def _require_one(config: SweepConfig, check: Callable[[TrialConfig], None], first: InfeasibleTarget) -> None:
    """One feasible point among all combinations of extremes is enough."""
    corners = config.space.all_corners()
    for point in corners:
        try:
            check(config.space.resolve(point, config.resources.cpus))
        except InfeasibleTarget:
            continue
        return
    all_of_them = 2 ** len(config.space.dimensions) <= CORNERS
    which = "no point" if all_of_them else f"none of {len(corners)} points at the ends"
    raise InfeasibleTarget(
        f"{which} of the search space can reach its target; {first.message}", first.where, first.hint
    )


def check_storage(folder: str, store: str | None = None) -> None:
    """The sweep's folder can be created and written, and so can its object store; leaves nothing behind."""
    where = "storage" if store is None else "ledger"
    path = Path(folder)
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"{existing} is not a folder", where, f"{where}=FOLDER chooses another place")
    probe = existing / f".write-test-{uuid.uuid4().hex}"
    try:
        probe.write_text("x", encoding="utf-8")
        probe.unlink()
    except OSError as exc:
        raise ConfigError(
            f"{existing} cannot be written: {exc.strerror}", where, f"{where}=FOLDER chooses another place"
        ) from exc
    if store is not None:
        check_store(store)


def check_tracking(uri: str | None) -> None:
    """The tracking server answers, within seconds; files and databases are opened later."""
    if uri is None or uri.startswith(("sqlite:", "postgresql", "mysql", "mssql")):
        return
    if not uri.startswith(("http://", "https://")):
        hint = "null (SQLite in the sweep's folder), http(s)://HOST:PORT, or a database URI"
        raise ConfigError(f"{uri!r} is not the address of a tracking server", "tracking.uri", hint)
    status, reason = _health(uri.rstrip("/"))
    if status in (200, 404):
        return  # 404: somebody else's MLflow behind a proxy; it answers, that is all we ask
    if status == 401:
        hint = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        raise ConfigError(
            "the tracking server rejects the credentials, or needs some (401)", "tracking.uri", hint
        )
    if status == 403:
        hint = "start the server with --allowed-hosts naming this host (and port); with a login, is the user allowed?"
        raise ConfigError("the tracking server rejects this host name (403)", "tracking.uri", hint)
    if status:
        raise ConfigError(f"the tracking server answers {status}", "tracking.uri", uri)
    hint = f"is it running (mlflow server --host 127.0.0.1)? waited {_TIMEOUT_S:g} s"
    raise ConfigError(f"the tracking server {uri} does not answer: {reason}", "tracking.uri", hint)


def _health(uri: str) -> tuple[int, str]:
    """(HTTP status, or 0 and why there is none), asked as MLflow itself asks: its credentials, certificates, plug-ins."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    once = {"max_retries": 0, "timeout": _TIMEOUT_S, "raise_on_status": False}
    try:
        return http_request(get_default_host_creds(uri), "/health", "GET", **once).status_code, ""
    except Exception as exc:  # MLflow's, requests' or a plug-in's
        cause: BaseException = exc
        while deeper := cause.__cause__ or cause.__context__:
            cause = deeper
        return 0, first_line(cause)


def check_ledger(url: str | None) -> None:
    """The database answers and lets us in; a journal needs nothing but the storage."""
    if url is not None:
        open_storage(url).engine.dispose()


def check_disk(folder: str | Path, needed: int = _LEAST_FREE) -> None:
    """There is room for ``needed`` bytes where the folder is, or will be."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < needed:
        raise ConfigError(
            f"{free / _MB:,.0f} MB are free at {path}, about {needed / _MB:,.0f} MB are needed",
            "storage",
            "storage=FOLDER chooses another place; gcp-sweep clean SWEEP makes room",
        )


def check_driver(exchange: Exchange) -> None:
    """Nobody else runs the sweep."""
    holder = driver_of(exchange.root)
    if holder is not None:
        where = str(exchange.root)
        raise ConfigError(
            f"another driver is running the sweep: {holder}", where, "wait for it to end, or stop it first"
        )
    exchange.refuse_second()


def leftovers(folder: str, here: str = ".") -> list[str]:
    """What is not a mistake but may surprise: locks of a killed driver, and somebody else's MLflow files."""
    notes = []
    stale = [path.name for path in Path(folder).glob(f"{JOURNAL}.lock*")]
    if stale:
        notes.append(f"{', '.join(stale)} was left by a driver that was killed; run removes it")
    for place in dict.fromkeys((Path(here), Path(folder).parent)):
        if (place / "mlruns").is_dir():
            notes.append(
                f"{place.absolute() / 'mlruns'} is not this sweep's: MLflow shows it if it is started there without"
                " --backend-store-uri"
            )
    return notes
