"""Further commands of ``gcp-analyze``: compare and register. Imported by ``analysis.cli``; nothing heavy on
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

    from analysis.compare import Comparison, Test


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
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the figures and their CSV.")
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
    paired = _paired(df, by, found)
    if out is not None:
        _figures(df, by, out)
    if as_json:
        say_json(answers.compare(df, by, found, paired))
        return
    _print(found, paired, equal)


def _paired(df: pd.DataFrame, by: str, found: Comparison) -> list[Test]:
    """Accuracy, configuration by configuration, where both sides ran the same ones."""
    from analysis import compare as comparison

    tests = []
    for test in found.tests:
        differences = comparison.paired_differences(df, by, test.first, test.second, "val_accuracy")
        if len(differences) >= 2:
            what = "validation accuracy at equal configuration and seed"
            tests.append(comparison.paired_test(differences, test.first, test.second, what))
    return tests


def _figures(df: pd.DataFrame, by: str, out: Path) -> None:
    from itertools import combinations

    from analysis import attainment, figures
    from analysis import compare as comparison

    goals = {"macs": "min", "val_accuracy": "max"}
    parts = comparison.split(df, by)
    surfaces = attainment.attainment(parts, goals)
    figures.save(attainment.draw_attainment(surfaces, "macs", "val_accuracy"), surfaces, out, "attainment")
    for a, b in combinations(parts, 2):
        boxes = attainment.attainment_difference(parts[a], parts[b], goals)
        drawing = attainment.draw_difference(boxes, "macs", "val_accuracy", a, b)
        figures.save(drawing, boxes, out, f"difference_{_file(a)}_{_file(b)}")


def _file(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label)


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
