"""Further commands of ``gcp-analyze``: compare, advise and register. Imported by ``analysis.cli``; nothing heavy on
top.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.cli import choose, common, guarded, main, read, say_json, verb_options

if TYPE_CHECKING:
    import pandas as pd

    from analysis.advice import Advice
    from analysis.compare import Comparison
    from analysis.permutation import Test


@main.command()
@click.argument("sweep", nargs=-1, required=True)
@common
@click.option(
    "--by", default=None, metavar="COLUMN", help="What to compare: prune.criterion, ... (default: sweep)."
)
@click.option(
    "--equal",
    default="device_hours",
    help="Hold equal: device_hours, epochs, trials or nothing.",
    show_default=True,
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the page, the figures and their CSV."
)
@click.option("--force", is_flag=True, help="Compare sweeps with different data or baselines anyway.")
@guarded
def compare(
    sweep: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    by: str | None,
    equal: str,
    out: Path | None,
    force: bool,
) -> None:
    """Compare sweeps (or the values of one parameter in a sweep): which differences are real, which
    undecided.
    """
    from analysis import answers
    from analysis import compare as comparison

    df = read(sweep, tracking_uri, no_cache)
    by = by or "sweep"
    if not force:
        comparison.check_comparable(df)
    found = comparison.compare(df, by, equal=equal)
    paired = comparison.paired_tests(df, by)
    written = None
    if out is not None:
        from analysis import compare_page

        written = compare_page.write(df, by, found, paired, out)
    if as_json:
        say_json(answers.compare(df, by, found, paired, written))
        return
    _print(found, paired, equal)
    if written is not None:
        click.echo(f"\npage     {written.page}")


def _print(found: Comparison, paired: list[Test], equal: str) -> None:
    from analysis import text

    groups = found.volumes.groupby("label")["hypervolume"]
    rows = [
        [str(label), str(len(v)), f"{v.mean():.4f}", f"{v.std(ddof=1):.4f}" if len(v) > 1 else "-"]
        for label, v in groups
    ]
    click.echo(text.grid(["", "seeds", "hypervolume", "std"], rows))
    click.echo(f"at equal {equal.replace('_', ' ')}; box {found.anchors}")
    click.echo()
    for test in [*found.tests, *paired]:
        click.echo(test.verdict)


@main.command()
@click.argument("sweep")
@common
@click.option(
    "--points", type=click.IntRange(min=1), default=6, show_default=True, help="How many to propose."
)
@click.option(
    "--method", default="fanova", show_default=True, help="How importance is measured: fanova or pedanova."
)
@click.option(
    "--write",
    "path",
    type=click.Path(path_type=Path),
    help="Config of the next sweep, with the points to try first.",
)
@guarded
def advise(
    sweep: str,
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    points: int,
    method: str,
    path: Path | None,
) -> None:
    """Say what mattered, where the front is thin, and which configurations to try next."""
    from analysis import advice, answers
    from analysis.anchors import anchors_for

    df = read(sweep, tracking_uri, no_cache)
    goals = df.attrs["objectives"]
    if not df["candidate"].any():
        from analysis.errors import NothingFeasible

        raise NothingFeasible("the sweep has no finished trial", sweep)
    found = advice.advise(df, goals, anchors_for(df, goals), points=points)
    mattered, why = _importance(df, goals, method)
    name = advice.write_config(df, found, path) if path is not None else None
    if as_json:
        say_json(answers.advise(df, found, mattered, why, str(path) if path is not None else None))
        return
    _print_advice(found, mattered, why)
    if path is not None:
        click.echo(f"\nwrote {path}: sweep {name}, first the points above")


def _importance(df: pd.DataFrame, goals: dict[str, str], method: str) -> tuple[pd.DataFrame | None, str]:
    """Importance for the objective that is no cost, and why it is not known."""
    from analysis.errors import NothingFeasible
    from analysis.importance import importance

    target = next((name for name, direction in goals.items() if direction == "max"), "val_accuracy")
    try:
        return importance(df, target, method=method), ""
    except NothingFeasible as error:
        return None, error.message


def _print_advice(found: Advice, mattered: pd.DataFrame | None, why: str) -> None:
    from analysis import text

    if mattered is None:
        click.echo(f"importance: not known ({why})")
    else:
        click.echo(f"What mattered for {mattered['target'].iloc[0]} ({mattered['method'].iloc[0]}):")
        rows = [
            [
                r["parameter"],
                f"{100 * r['importance']:.0f} %",
                f"{100 * r['low']:.0f} to {100 * r['high']:.0f} %",
            ]
            for r in mattered.to_dict("records")
        ]
        click.echo(text.grid(["parameter", "importance", "10 to 90 % of resamplings"], rows))
    click.echo("\nWhere the front is thin:")
    for gap in found.gaps:
        click.echo(f"  {gap.words}")
    click.echo(
        "\nTo try next:" if found.points else "\nEverything between the ends of these gaps ran already."
    )
    for point in found.points:
        click.echo("  " + " ".join(f"{path}={text.parameter(value)}" for path, value in point.items()))


@main.command()
@click.argument("sweep")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option("--name", help="Name of the registered model (default: the sweep's name).")
@click.option("--data-path", help="Where the data lies here, if not where the trial found it.")
@click.option("--alias", help="Alias of this version (default: the point asked for, such as macs-50).")
@guarded
def register(
    sweep: str,
    constraints: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    name: str | None,
    data_path: str | None,
    alias: str | None,
    **verbs: Any,
) -> None:
    """Choose as in select, prove as in export, then put the model into MLflow's registry under an alias."""
    from analysis import answers
    from analysis.export import export
    from analysis.register import alias_for
    from analysis.register import register as put

    df = read(sweep, tracking_uri, no_cache)
    choice, parsed = choose(df, constraints, verbs)
    row = choice.rows.iloc[0]
    name, alias = name or str(row["sweep"]), alias or alias_for(row, parsed)
    with tempfile.TemporaryDirectory() as work:
        exported = export(
            df, choice.trial, Path(work) / "model", reason=choice.reason, onnx=True, data_path=data_path
        )
        registered = put(df, row, exported, name=name, alias=alias)
    if as_json:
        say_json(answers.register(df, choice, registered))
        return
    click.echo(choice.reason)
    what = "registered" if registered.new else "already registered:"
    moved = f" (the alias was on version {registered.moved_from})" if registered.moved_from else ""
    click.echo(f"{what} {registered.name} version {registered.version} as {registered.uri}{moved}")
