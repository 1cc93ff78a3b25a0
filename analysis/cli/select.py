"""``gcp-analyze select``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from analysis.cli.shared import choose, common, guarded, read, say_json, verb_options, write_csv


@click.command()
@click.argument("sweep")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the choice and runners-up as CSV.",
)
@click.option(
    "--write-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Config to train the choice on fresh seeds.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="With --write-config."
)
@click.option("--epochs", type=click.IntRange(min=1), help="With --write-config: another training length.")
@click.option("--from-scratch", is_flag=True, help="With --write-config: train its widths from scratch.")
@click.option(
    "--polish",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also print the command that trains the chosen snapshot for N more epochs.",
)
@guarded
def select(
    sweep: str,
    constraints: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    csv_path: Path | None,
    write_config: Path | None,
    seeds: int,
    epochs: int | None,
    from_scratch: bool,
    polish: int | None,
    **verbs: Any,
) -> None:
    """Choose one model: hard CONSTRAINTS first ("macs <= 50%" "accuracy_drop <= 1"), then one rule (--best, ...)."""
    import pandas as pd

    from analysis import text
    from analysis.choose import recipe, scratch
    from analysis.cli import answers
    from analysis.runs import table
    from analysis.runs.models import word
    from analysis.show import terminal
    from gcp_core.errors import ConfigError

    if from_scratch and write_config is None:
        raise ConfigError("says what --write-config PATH writes", "--from-scratch", "give both")
    df = read(sweep, tracking_uri, no_cache)
    choice, _ = choose(df, constraints, verbs)
    shown = pd.concat([choice.rows, choice.runners_up])
    command = None if polish is None else recipe.command_for(df, choice.rows.iloc[0], polish)
    if csv_path is not None:
        write_csv(shown, csv_path)
    if write_config is not None:
        write = scratch.write_scratch_config if from_scratch else recipe.write_config
        write(df, choice.rows.iloc[0], write_config, seeds=seeds, epochs=epochs)
    if as_json:
        say_json(answers.select(df, choice, command))
        return
    for constraint in choice.constraints:
        click.echo(f"constraint: {constraint}")
    click.echo(f"{choice.feasible} of {text.plural(choice.considered, f'finished {word(df)}')} feasible")
    click.echo()
    marks = dict.fromkeys(choice.rows.index, "<- chosen")
    terminal.show(terminal.models(shown, table.varying(df), marks))
    click.echo()
    click.echo(choice.reason)
    if command is not None:
        click.echo(f"polish it: {command}")
