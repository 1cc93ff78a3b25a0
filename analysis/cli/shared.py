"""What the commands share: their options, how they read a sweep, how an error becomes an exit code."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.environment import environment

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.constraints import Constraint
    from analysis.choose.select import Choice


#: How often MLflow's client asks a server that does not answer again: about half a minute, not its own four minutes,
#: for which a mistyped address would look like work.
_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4"}


def guarded(command: Callable) -> Callable:
    """Turn our own errors, and those of files, into one line on stderr and their exit code; with ``--json`` also into an
    answer on standard output, as ``gcp-sweep`` has it.

    Every path among the options is one to write to: it is looked at before the command begins.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from analysis.errors import NothingFeasible
        from gcp_core.errors import CheckpointError, ConfigError, DataError, GcpError

        def fail(error: GcpError, code: int) -> None:
            if kwargs.get("as_json"):
                say_json(error.as_dict())
            click.echo(f"error: {error}", err=True)
            sys.exit(code)

        try:
            for path in (value for value in kwargs.values() if isinstance(value, Path)):
                check_writable(path)
            with environment(_RETRIES | {name: os.environ[name] for name in _RETRIES if name in os.environ}):
                command(*args, **kwargs)
        except NothingFeasible as error:
            if kwargs.get("as_json"):
                from analysis.cli import answers

                say_json(answers.nothing(error))
            click.echo(f"nothing feasible: {error}", err=True)
            sys.exit(3)
        except GcpError as error:
            fail(error, 2 if isinstance(error, (ConfigError, DataError, CheckpointError)) else 1)
        except OSError as error:
            if error.filename is None and error.errno not in _FULL:
                raise
            where = "" if error.filename is None else str(error.filename)
            fail(GcpError(error.strerror or str(error), where), 1)

    return run


#: Errors of writing that name no file.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_writable(path: Path) -> None:
    """Ask before the long work whether ``path`` can be written; missing folders above it are made later.

    Raises:
        GcpError: a folder above it is a file, or writing there is not allowed.
    """
    from gcp_core.errors import GcpError

    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if place != path.absolute() and not place.is_dir():
        raise GcpError(f"cannot be written: {place} is not a folder", str(path))
    if not os.access(place, os.W_OK):
        raise GcpError(f"cannot be written: {place} is read-only here", str(path))


def write_csv(rows: pd.DataFrame, path: Path) -> None:
    """Write a table; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False)


def common(command: Callable) -> Callable:
    """Options of every command."""
    options = [
        click.option("--tracking-uri", help="MLflow store of a sweep that is given by name or id."),
        click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON (docs/schemas)."),
        click.option("--no-cache", is_flag=True, help="Read everything from MLflow again."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def verb_options(command: Callable) -> Callable:
    """One option per verb of ``select``."""
    options = [
        click.option("--best", metavar="QUANTITY", help="The best value, for instance: accuracy."),
        click.option(
            "--cheapest", metavar="COST", help="The smallest of macs, params, latency_ms, device_hours."
        ),
        click.option(
            "--knee", is_flag=True, help="The point where the feasible front bends most, as a suggestion."
        ),
        click.option("--weighted", metavar="W", help='Highest weighted gain: "accuracy=3 macs=1".'),
        click.option(
            "--lexicographic", metavar="L", help='Level by level, with tolerances: "accuracy:0.2 macs".'
        ),
        click.option("--nearest", metavar="T", help='The model on the front that is nearest to: "macs=40%".'),
        click.option(
            "--top", type=click.IntRange(min=1), metavar="K", help="K models spread over the front."
        ),
        click.option(
            "--id", metavar="MODEL", help="This model (t0007@3, or t0008 of a single trial), if feasible."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def usable_option(command: Callable) -> Callable:
    """``--usable``: where the accuracy scale of a hypervolume begins; the command gets points, or None for chance."""
    return click.option(
        "--usable",
        default="10",
        show_default=True,
        callback=lambda _context, _parameter, value: _points(value),
        metavar="POINTS|chance",
        help="The hypervolume counts accuracy from this many points below the baseline, or from chance.",
    )(command)


def _points(value: str) -> float | None:
    if value == "chance":
        return None
    try:
        points = float(value)
    except ValueError:
        points = 0.0
    if not 0 < points < 100:
        raise click.BadParameter(f"{value!r} is neither a number of points above 0 nor 'chance'")
    return points


def band_option(command: Callable) -> Callable:
    """``--band``: what counts as a near-tie; the command gets a share."""
    return click.option(
        "--band",
        default="1%",
        show_default=True,
        callback=lambda _context, _parameter, value: _share(value),
        metavar="SHARE",
        help="Models on the front whose costs differ by no more than this count as equal; only the better one is shown. "
        "0 shows all.",
    )(command)


def _share(value: str) -> float:
    try:
        share = float(value.removesuffix("%").strip()) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a share such as 1% or 0.01") from None
    if not 0 <= share < 1:
        raise click.BadParameter(
            f"{value!r} is not from 0 to below 100 %; did you mean {value.rstrip('%')}%?"
        )
    return share


def read(sweep: str | tuple[str, ...], tracking_uri: str | None, no_cache: bool) -> pd.DataFrame:
    """The table of one or several sweeps; says so if one still runs."""
    from analysis.runs.load import load

    df = load(sweep, tracking_uri=tracking_uri, cache=not no_cache)
    for entry in df.attrs["sweeps"]:
        if entry.get("running"):
            click.echo(f"note: sweep {entry['name']} is still running; this is the current state", err=True)
    return df


def choose(
    df: pd.DataFrame, constraints: tuple[str, ...], verbs: dict[str, Any]
) -> tuple[Choice, list[Constraint]]:
    """Parse constraints and verb, choose; the choice and the parsed constraints."""
    from analysis.choose import constraints as hard
    from analysis.choose import select
    from analysis.choose.verbs import parse_verb
    from analysis.runs import table
    from analysis.runs.models import row_of

    parsed = [hard.parse(one, table.config_columns(df)) for one in constraints]
    if verbs.get("id"):
        _check_candidate(row_of(df, str(verbs["id"])))  # a name that nothing has is refused
    return select.choose(df, parsed, parse_verb(verbs)), parsed


def _check_candidate(row: pd.Series) -> None:
    """Say why a model that exists can never be chosen, instead of that no limit lets it through.

    Raises:
        NothingFeasible: it is none of the search's, or was left out.
    """
    from analysis.errors import NothingFeasible

    why = row["left_out"] if row["kind"] == "trial" else f"it is a {row['kind']} run"
    if why:
        hint = f"choose {row['same_as']}" if row["same_as"] else ""
        raise NothingFeasible(f"cannot be chosen: {why}", str(row["model"]), hint)


def say_json(answer: dict[str, Any]) -> None:
    """Print an answer of ``analysis.cli.answers``."""
    click.echo(json.dumps(answer, indent=1, allow_nan=False))
