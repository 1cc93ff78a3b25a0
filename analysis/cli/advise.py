"""``gcp-analyze advise``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.cli.shared import common, guarded, read, say_json

if TYPE_CHECKING:
    import pandas as pd

    from analysis.choose.advice import Advice


@click.command()
@click.argument("sweep")
@common
@click.option(
    "--points", type=click.IntRange(min=1), default=6, show_default=True, help="How many to propose."
)
@click.option(
    "--write",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Config of the next sweep, with the points to try first.",
)
@guarded
def advise(
    sweep: str,
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    points: int,
    path: Path | None,
) -> None:
    """Say what mattered, where the front is thin, and which configurations to try next."""
    from analysis.choose import advice
    from analysis.cli import answers
    from analysis.front.anchors import anchors_for

    df = read(sweep, tracking_uri, no_cache)
    goals = df.attrs["objectives"]
    if not df["candidate"].any():
        from analysis.errors import NothingFeasible

        raise NothingFeasible("the sweep has no finished trial", sweep)
    found = advice.advise(df, goals, anchors_for(df, goals), points=points)
    mattered, why = _importance(df)
    name = advice.write_config(df, found, path) if path is not None else None
    if as_json:
        say_json(answers.advise(df, found, mattered, why, str(path) if path is not None else None))
        return
    _print_advice(found, mattered, why)
    if path is not None:
        click.echo(f"\nwrote {path}: sweep {name}, first the points above")


def _importance(df: pd.DataFrame) -> tuple[pd.DataFrame | None, str]:
    """Importance for the accuracy, as on the page, and why it is not known. All other objectives are costs, or shares of
    them, which a target sets.
    """
    from analysis.errors import NothingFeasible
    from analysis.evidence.importance import importance
    from gcp_core.errors import ConfigError

    try:
        return importance(df), ""
    except (NothingFeasible, ConfigError) as error:
        return None, error.message  # too few trials, or no parameter varies: gaps there are all the same


def _print_advice(found: Advice, mattered: pd.DataFrame | None, why: str) -> None:
    from analysis import text
    from analysis.evidence.importance import cells, findings
    from analysis.show import terminal

    if mattered is None:
        click.echo(f"importance: not known ({why})")
    else:
        click.echo("What mattered: " + findings(mattered))
        terminal.show(terminal.table(*cells(mattered)))
    click.echo("\nWhere the front is thin:")
    for gap in found.gaps:
        click.echo(f"  {gap.words}")
    click.echo(
        "\nTo try next:" if found.points else "\nEverything between the ends of these gaps ran already."
    )
    for point in found.points:
        click.echo("  " + " ".join(f"{path}={text.parameter(value)}" for path, value in point.items()))
