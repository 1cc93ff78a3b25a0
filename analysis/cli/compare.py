"""``gcp-analyze compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from analysis.cli.shared import common, guarded, read, say_json

if TYPE_CHECKING:
    from analysis.evidence.compare import Comparison
    from analysis.evidence.permutation import Test


@click.command()
@click.argument("sweep", nargs=-1, required=True)
@common
@click.option(
    "--by", default=None, metavar="COLUMN", help="What to compare: prune.criterion, ... (default: sweep)."
)
@click.option(
    "--equal",
    default="device_hours",
    help="Hold equal: device_hours, epochs, train_cost, trials or nothing.",
    show_default=True,
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the page, the figures and their CSV.",
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
    from analysis.cli import answers
    from analysis.evidence import compare as comparison

    df = read(sweep, tracking_uri, no_cache)
    by = by or "sweep"
    if not force:
        comparison.check_comparable(df)
    found = comparison.compare(df, by, equal=equal)
    paired = comparison.paired_tests(df, by)
    written = None
    if out is not None:
        from analysis.show import compare_page

        written = compare_page.write(df, by, found, paired, out)
    if as_json:
        say_json(answers.compare(df, by, found, paired, written))
        return
    _print(found, paired)
    if written is not None:
        click.echo(f"\npage     {written.page}")


def _print(found: Comparison, paired: list[Test]) -> None:
    from analysis.show import terminal

    groups = found.volumes.groupby("label")["hypervolume"]
    rows = [
        [str(label), str(len(v)), f"{v.mean():.4f}", f"{v.std(ddof=1):.4f}" if len(v) > 1 else "-"]
        for label, v in groups
    ]
    terminal.show(terminal.table(["", "seeds", "hypervolume", "std"], rows))
    click.echo(f"{found.basis()}; box {found.anchors}")
    click.echo()
    for test in [*found.tests, *paired]:
        click.echo(test.verdict)
