"""``gcp-analyze report``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.cli.shared import (
    band_option,
    check_writable,
    choose,
    common,
    guarded,
    read,
    say_json,
    usable_option,
    verb_options,
)

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.constraints import Constraint


@click.command()
@click.argument("sweep", nargs=-1, required=True)
@common
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to (default: SWEEP/report).",
)
@click.option(
    "--where",
    "constraints",
    multiple=True,
    metavar="CONSTRAINT",
    help="Draw this limit and choose within it.",
)
@verb_options
@band_option
@usable_option
@click.option(
    "--publish/--no-publish", default=False, help="Also tag the front in MLflow and attach the figures."
)
@click.option(
    "--bench",
    "benches",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also show this result of bench. Results in SWEEP/bench are always shown.",
)
@click.option(
    "--serve", is_flag=True, help="Serve the page instead of writing it; it follows a running sweep."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="With --serve (default: 8765; 0: any)."
)
@click.option(
    "--host", default=None, help="With --serve: address to listen on (default: 127.0.0.1, this machine only)."
)
@guarded
def report(
    sweep: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    out: Path | None,
    constraints: tuple[str, ...],
    publish: bool,
    band: float,
    usable: float | None,
    benches: tuple[Path, ...],
    serve: bool,
    port: int | None,
    host: str | None,
    **verbs: Any,
) -> None:
    """Write one self-contained HTML page, figures (PNG, SVG) and their CSV; works offline.

    Without a rule (--best, --id, ...) the page opens on a default choice: the cheapest model within one point of its
    baseline.
    """
    from analysis.cli import answers
    from analysis.errors import NothingFeasible
    from analysis.ship import measured
    from analysis.show import report as page

    if serve and (out or publish or as_json):
        raise click.UsageError(
            "--serve writes nothing, so it cannot be combined with --out, --publish or --json"
        )
    if not serve and (port is not None or host is not None):
        raise click.UsageError("--port and --host need --serve")
    for file in benches:
        measured.read(file)
    options: dict[str, Any] = {"band": band, "usable": usable, "benches": benches}
    if serve:
        table = functools.partial(_table, sweep, tracking_uri, no_cache)
        _serve(sweep, table, functools.partial(_page, constraints, verbs, options), host, port)
        return
    df = read(sweep, tracking_uri, no_cache)
    if publish:
        _check_parent(df)
    asked = any(value not in (None, False) for value in verbs.values())
    folder = out or _report_folder(sweep, df)
    check_writable(folder)
    try:
        choice, parsed = choose(df, constraints, verbs) if asked else (None, _parse(df, constraints))
    except NothingFeasible:
        # The page says so too, and by how much each limit is missed.
        written = page.write(df, folder, constraints=_parse(df, constraints), **options)
        click.echo(f"report   {written.page}", err=as_json)
        raise
    # First, because it draws the same figures without a choice.
    published = _publish(df, tracking_uri) if publish else None
    written = page.write(df, folder, choice=choice, constraints=parsed, **options)
    if as_json:
        say_json(answers.report(df, parsed, written, published))
        return
    click.echo(f"report   {written.page}")
    click.echo(f"figures  {', '.join(p.name for p in written.files)}")
    if published is not None:
        click.echo(
            f"MLflow   {len(published.front)} trials tagged pareto.front = true; figures and note on the parent"
        )


def _table(sweep: tuple[str, ...], tracking_uri: str | None, no_cache: bool) -> pd.DataFrame:
    from analysis.runs.load import load

    return load(sweep, tracking_uri=tracking_uri, cache=not no_cache)


def _page(
    constraints: tuple[str, ...], verbs: dict[str, Any], options: dict[str, Any], df: pd.DataFrame
) -> str:
    """The report of a table; without a choice as long as no model is feasible."""
    from analysis.errors import NothingFeasible
    from analysis.show import report as page

    asked = any(value not in (None, False) for value in verbs.values())
    try:
        choice, parsed = choose(df, constraints, verbs) if asked else (None, _parse(df, constraints))
    except NothingFeasible:
        choice, parsed = None, _parse(df, constraints)
    return page.html(df, choice=choice, constraints=parsed, **options)


def _serve(
    sweep: tuple[str, ...],
    table: Callable[[], pd.DataFrame],
    make: Callable[[pd.DataFrame], str],
    host: str | None,
    port: int | None,
) -> None:
    from analysis.show.serve import HOST, PORT, LivePage, Server, is_loopback

    name = ", ".join(Path(one).name for one in sweep)
    live = LivePage(name, table, make)
    with Server(live, HOST if host is None else host, PORT if port is None else port) as server:
        click.echo(f"report   {server.url}  (follows the sweep; Ctrl-C ends it)")
        if not is_loopback(server.host):
            click.echo("note: anyone who can reach this machine can read it", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    click.echo("stopped serving", err=True)


def _parse(df: pd.DataFrame, constraints: tuple[str, ...]) -> list[Constraint]:
    from analysis.choose import constraints as hard
    from analysis.runs import table

    return [hard.parse(one, table.config_columns(df)) for one in constraints]


def _report_folder(sweep: tuple[str, ...], df: pd.DataFrame) -> Path:
    folder = df.attrs["sweeps"][0].get("folder")
    return Path(folder) / "report" if folder and len(sweep) == 1 else Path("report")


def _check_parent(df: pd.DataFrame) -> None:
    """Refuse to publish what has no parent run in MLflow, before anything is written.

    Raises:
        ConfigError: these are several sweeps, or a file.
    """
    from gcp_core.errors import ConfigError

    entries = df.attrs["sweeps"]
    if len(entries) > 1:
        message = f"{len(entries)} sweeps have no run of their own in MLflow"
        raise ConfigError(message, "--publish", "publish each sweep by itself")
    if "parent_run_id" not in entries[0]:
        raise ConfigError("a file has no run in MLflow", "--publish", "give the sweep itself")


def _publish(df: pd.DataFrame, tracking_uri: str | None) -> Any:
    """Publish a single sweep that lives in MLflow."""
    from analysis.runs.store import answering
    from analysis.show.publish import publish

    (entry,) = df.attrs["sweeps"]
    with answering(entry["tracking_uri"]):
        return publish(entry["folder"] or entry["id"], tracking_uri=tracking_uri or entry["tracking_uri"])
