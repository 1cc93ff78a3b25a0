"""``gcp-analyze front``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.cli.shared import band_option, common, guarded, read, say_json, usable_option, write_csv

if TYPE_CHECKING:
    import pandas as pd

    from analysis.evidence.assurance import Assurance
    from gcp_core.schema import Direction


@click.command()
@click.argument("sweep", nargs=-1, required=True)
@common
@click.option(
    "--objective", "objectives", multiple=True, metavar="NAME:max|min", help="Instead of the sweep's own."
)
@band_option
@usable_option
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False), help="Also write the front as CSV."
)
@click.option("--all", "everything", is_flag=True, help="All finished models with their Pareto rank.")
@guarded
def front(
    sweep: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    objectives: tuple[str, ...],
    csv_path: Path | None,
    everything: bool,
    band: float,
    usable: float | None,
) -> None:
    """Print the front: finished models for which no other is at least as good in every objective and better in one."""
    from analysis.cli import answers
    from analysis.evidence.assurance import assurance
    from analysis.front import pareto
    from analysis.front.anchors import anchors_for, from_chance
    from analysis.runs import table
    from analysis.show import terminal

    df = read(sweep, tracking_uri, no_cache)
    goals = _objectives(objectives) or df.attrs["objectives"]
    if not df["candidate"].any():  # nor need there be a column for what nobody has measured
        from analysis.errors import NothingFeasible

        reasons = "; ".join(f"{len(t)} {r}" for r, t in df.attrs["left_out"].items())
        raise NothingFeasible("the sweep has no finished trial", sweep[0], reasons)
    df["pareto_rank"] = pareto.ranks(df, goals)
    df.attrs["left_out"] = table.Names(df.attrs["left_out"] | _without_value(df, list(goals)))
    scales = anchors_for(df, goals, usable=usable)
    best = pareto.distinct(df, goals, band)
    near_ties = best.attrs["near_ties"]
    rows = df[df["pareto_rank"].notna()] if everything else df.loc[best.index]
    rows = rows.sort_values(["pareto_rank", "macs"], kind="stable")
    volume = pareto.hypervolume(df, goals, scales)
    chance = from_chance(scales, df, goals)
    old = pareto.hypervolume(df, goals, chance).value if chance else None
    sure = assurance(df, goals)
    if csv_path is not None:
        write_csv(rows, csv_path)
    if as_json:
        say_json(answers.front(df, rows, goals, volume, scales.describe(), old, sure.plain(), near_ties))
        return
    shown, columns = _with_seeds(_with_baselines(df, rows), sure)
    terminal.show(terminal.models(shown, [*table.varying(df), *columns], _marks(df, rows, everything)))
    click.echo()
    click.echo(_summary(df, goals, volume, scales.describe(), old, near_ties))
    for line in sure.lines():
        click.echo(line)


def _objectives(given: tuple[str, ...]) -> dict[str, Direction]:
    from analysis.choose import constraints as hard
    from gcp_core.errors import ConfigError
    from gcp_core.schema import FINALS

    directions: dict[str, Direction] = {"max": "max", "min": "min"}
    goals: dict[str, Direction] = {}
    for one in given:
        name, _, words = one.partition(":")
        name = hard.ALIASES.get(name, name)
        if name in hard.HELD_BACK:
            raise ConfigError(
                "test accuracy cannot be an objective", f"--objective {one}", "use val_accuracy"
            )
        if not words and name in FINALS:
            words = FINALS[name].better or ""
        if words not in directions:
            raise ConfigError(f"{one!r} is not NAME:max or NAME:min", "--objective", "for instance macs:min")
        goals[name] = directions[words]
    return goals


def _without_value(df: pd.DataFrame, goals: list[str]) -> dict[str, list[str]]:
    """What is missing -> finished models that have no rank, because they have no value of an objective."""
    rows = df[df["candidate"] & df["pareto_rank"].isna()]
    found: dict[str, list[str]] = {}
    for model, lacks in zip(rows["model"], rows[goals].isna().to_numpy()):
        names = [name for name, missing in zip(goals, lacks) if missing] or goals
        found.setdefault(f"no finite {', '.join(names)}", []).append(str(model))
    return found


def _with_baselines(df: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([df[df["kind"] == "baseline"], rows])


def _with_seeds(rows: pd.DataFrame, sure: Assurance) -> tuple[pd.DataFrame, list[str]]:
    """The rows with the number of seeds of their configuration, where some have several, and what these rule out."""
    import pandas as pd

    from analysis.runs.models import is_polished

    if sure.groups is None:
        return rows, []
    keys = ["sweep", "config_id", "level"]
    known = {str([g[k] for k in keys]): g for g in sure.groups.to_dict("records")}
    of = [
        {} if polished else known.get(str([row[k] for k in keys]), {})
        for row, polished in zip(rows.to_dict("records"), is_polished(rows))
    ]
    shown = rows.assign(seeds=pd.array([g.get("n") for g in of], dtype="Int64"))
    shown["ruled out"] = ["yes" if g.get("ruled_out") else None for g in of]
    return shown, ["seeds", "ruled out"] if shown["ruled out"].notna().any() else ["seeds"]


def _marks(df: pd.DataFrame, rows: pd.DataFrame, ranked: bool) -> dict[Hashable, str]:
    marks: dict[Hashable, str] = dict.fromkeys(df.index[df["kind"] == "baseline"], "baseline")
    if ranked:
        marks.update({index: f"rank {rank}" for index, rank in rows["pareto_rank"].items()})
    return marks


def _summary(
    df: pd.DataFrame,
    goals: Mapping[str, str],
    volume: Any,
    scale: str,
    old: float | None,
    near_ties: dict[str, str],
) -> str:
    from analysis import text
    from analysis.runs import table
    from analysis.runs.models import finished_baselines, unfinished_paths, word

    counts, one = table.counts(df), word(df)
    said = ", ".join(f"{name} ({direction})" for name, direction in goals.items())
    lines = [
        f"{volume.points - len(near_ties)} of {text.plural(counts['candidates'], f'finished {one}')} on the front of "
        f"{said}.",
        f"hypervolume {volume.value:.4f} of the box {scale}",
    ]
    if old is not None:
        lines.append(f"hypervolume {old:.4f} with accuracy from chance, for comparison with older numbers")
    if near_ties:
        named = ", ".join(f"{trial} ({by})" for trial, by in near_ties.items())
        lines.append(
            f"near-ties left out, a better {one} costs practically the same: {named}; --band 0 shows them"
        )
    if volume.cut:
        lines.append(
            f"outside that box, so without a part in the hypervolume: {text.plural(volume.cut, f'front {one}')}"
        )
    for reason, trials in df.attrs["left_out"].items():
        shown = ", ".join(trials[:6]) + (", ..." if len(trials) > 6 else "")
        lines.append(f"left out: {len(trials)} {reason} [{shown}]")
    for status, paths in unfinished_paths(df).items():
        shown = ", ".join(paths[:6]) + (", ..." if len(paths) > 6 else "")
        lines.append(f"{text.plural(len(paths), 'path')} {status} after snapshots, which stay [{shown}]")
    if not finished_baselines(df):
        what = "no baseline has finished" if counts["baselines"] else "no baseline"
        lines.append(f"{what}: drops and shares of the baseline are unknown")
    return "\n".join(lines)
