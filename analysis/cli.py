"""``gcp-analyze``: from the runs of a sweep to one model. Only click is imported until a command runs.

Exit codes: 0 ok, 1 failed, 2 bad usage or config, 3 nothing feasible.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

    from analysis.assurance import Assurance
    from analysis.constraints import Constraint
    from analysis.select import Choice

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="gcp-sweep", prog_name="gcp-analyze")
def main() -> None:
    """Find, choose, prove and ship models from a sweep's accuracy-versus-cost front.

    SWEEP is the sweep's folder, or its name or id together with --tracking-uri, or a .csv or .parquet table.
    """


def guarded(command: Callable) -> Callable:
    """Our own errors become one line on stderr and the exit code that belongs to them."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from analysis.errors import NothingFeasible
        from gcp_core.errors import CheckpointError, ConfigError, DataError, GcpError

        try:
            command(*args, **kwargs)
        except NothingFeasible as error:
            if kwargs.get("as_json"):
                from analysis import answers

                say_json(answers.nothing(error))
            click.echo(f"nothing feasible: {error}", err=True)
            sys.exit(3)
        except (ConfigError, DataError, CheckpointError) as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except GcpError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return run


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
        click.option("--knee", is_flag=True, help="Where the feasible front bends most; a suggestion."),
        click.option("--weighted", metavar="W", help='Highest weighted gain: "accuracy=3 macs=1".'),
        click.option(
            "--lexicographic", metavar="L", help='Level by level, with tolerances: "accuracy:0.2 macs".'
        ),
        click.option("--nearest", metavar="T", help='The front trial nearest to: "macs=40%".'),
        click.option(
            "--top", type=click.IntRange(min=1), metavar="K", help="K trials spread over the front."
        ),
        click.option("--id", metavar="TRIAL", help="This trial, if it satisfies the constraints."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read(sweep: str | tuple[str, ...], tracking_uri: str | None, no_cache: bool) -> pd.DataFrame:
    """The table of one or several sweeps; says so if one still runs."""
    import analysis

    df = analysis.load(sweep, tracking_uri=tracking_uri, cache=not no_cache)
    for entry in df.attrs["sweeps"]:
        if entry.get("running"):
            click.echo(f"note: sweep {entry['name']} is still running; this is the state of now", err=True)
    return df


def choose(
    df: pd.DataFrame, constraints: tuple[str, ...], verbs: dict[str, Any]
) -> tuple[Choice, list[Constraint]]:
    """Parse constraints and verb, choose; the choice and the parsed constraints."""
    from analysis import constraints as hard
    from analysis import select, table
    from analysis.verbs import parse_verb

    parsed = [hard.parse(one, table.config_columns(df)) for one in constraints]
    return select.choose(df, parsed, parse_verb(verbs)), parsed


def say_json(answer: dict[str, Any]) -> None:
    """Print an answer of ``analysis.answers``."""
    click.echo(json.dumps(answer, indent=1, allow_nan=False))


@main.command()
@click.argument("sweep", nargs=-1, required=True)
@common
@click.option(
    "--objective", "objectives", multiple=True, metavar="NAME:max|min", help="Instead of the sweep's own."
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Also write the front as CSV.")
@click.option("--all", "everything", is_flag=True, help="All finished trials with their Pareto rank.")
@guarded
def front(
    sweep: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    objectives: tuple[str, ...],
    csv_path: Path | None,
    everything: bool,
) -> None:
    """Print the front: the finished trials that no other trial beats in every objective."""
    from analysis import answers, pareto, table, text
    from analysis.anchors import anchors_for
    from analysis.assurance import assurance

    df = read(sweep, tracking_uri, no_cache)
    goals = _objectives(objectives) or df.attrs["objectives"]
    df["pareto_rank"] = pareto.ranks(df, goals)
    scales = anchors_for(df, goals) if df["candidate"].any() else None
    rows = df[df["pareto_rank"].notna()] if everything else df[df["pareto_rank"] == 1]
    rows = rows.sort_values(["pareto_rank", "macs"], kind="stable")
    if scales is None:
        from analysis.errors import NothingFeasible

        reasons = "; ".join(f"{len(t)} {r}" for r, t in df.attrs["left_out"].items())
        raise NothingFeasible("the sweep has no finished trial", sweep[0], reasons)
    volume = pareto.hypervolume(df, goals, scales)
    sure = assurance(df, goals)
    if csv_path is not None:
        rows.to_csv(csv_path, index=False)
    if as_json:
        say_json(answers.front(df, rows, goals, volume, scales.describe(), sure.plain()))
        return
    shown, columns = _with_chances(_with_baselines(df, rows), sure)
    click.echo(text.trials_table(shown, [*table.varying(df), *columns], _marks(df, rows, everything)))
    click.echo()
    click.echo(_summary(df, goals, volume, scales.describe()))
    for line in sure.lines():
        click.echo(line)


def _objectives(given: tuple[str, ...]) -> dict[str, str]:
    from gcp_core.errors import ConfigError
    from gcp_core.schema import FINALS

    goals = {}
    for one in given:
        name, _, direction = one.partition(":")
        if not direction and name in FINALS:
            direction = FINALS[name].better or ""
        if direction not in ("max", "min"):
            raise ConfigError(f"{one!r} is not NAME:max or NAME:min", "--objective", "for instance macs:min")
        goals[name] = direction
    return goals


def _with_baselines(df: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([df[df["kind"] == "baseline"], rows])


def _with_chances(rows: pd.DataFrame, sure: Assurance) -> tuple[pd.DataFrame, list[str]]:
    """The rows with their configuration's chance of being on the front, where the noise is known."""
    if sure.groups is None:
        return rows, []
    chance = dict(zip(sure.groups["config_id"], sure.groups["probability"]))
    said = [f"{100 * chance[c]:.0f} %" if c in chance else None for c in rows["config_id"]]
    return rows.assign(chance=said), ["chance"]


def _marks(df: pd.DataFrame, rows: pd.DataFrame, ranked: bool) -> dict[str, str]:
    marks = dict.fromkeys(df.loc[df["kind"] == "baseline", "trial"], "baseline")
    if ranked:
        marks.update({trial: f"rank {rank}" for trial, rank in zip(rows["trial"], rows["pareto_rank"])})
    return marks


def _summary(df: pd.DataFrame, goals: dict[str, str], volume: Any, scale: str) -> str:
    from analysis import table, text

    counts = table.counts(df)
    said = ", ".join(f"{name} ({direction})" for name, direction in goals.items())
    lines = [
        f"{volume.points} of {text.plural(counts['candidates'], 'finished trial')} on the front of {said}.",
        f"hypervolume {volume.value:.4f} of the box {scale}",
    ]
    if volume.cut:
        lines.append(f"{volume.cut} front trials lie outside that box and add nothing to the hypervolume")
    for reason, trials in df.attrs["left_out"].items():
        shown = ", ".join(trials[:6]) + (", ..." if len(trials) > 6 else "")
        lines.append(f"left out: {len(trials)} {reason} [{shown}]")
    if not counts["baselines"]:
        lines.append("no baseline: drops and shares of the baseline are unknown")
    return "\n".join(lines)


@main.command()
@click.argument("sweep")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path), help="Also write the choice and runners-up as CSV."
)
@click.option(
    "--write-config", type=click.Path(path_type=Path), help="Config to train the choice on fresh seeds."
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="With --write-config."
)
@click.option("--epochs", type=click.IntRange(min=1), help="With --write-config: another training length.")
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
    **verbs: Any,
) -> None:
    """Choose one trial: hard CONSTRAINTS first ("macs <= 50%" "accuracy_drop <= 1"), then one verb."""
    import pandas as pd

    from analysis import answers, table, text

    df = read(sweep, tracking_uri, no_cache)
    choice, _ = choose(df, constraints, verbs)
    shown = pd.concat([choice.rows, choice.runners_up])
    if csv_path is not None:
        shown.to_csv(csv_path, index=False)
    if write_config is not None:
        from analysis import recipe

        recipe.write_config(df, choice.rows.iloc[0], write_config, seeds=seeds, epochs=epochs)
    if as_json:
        say_json(answers.select(df, choice))
        return
    for constraint in choice.constraints:
        click.echo(f"constraint: {constraint}")
    click.echo(f"{choice.feasible} of {text.plural(choice.considered, 'finished trial')} feasible")
    click.echo()
    marks = dict.fromkeys(choice.rows["trial"], "<- chosen")
    click.echo(text.trials_table(shown, table.varying(df), marks))
    click.echo()
    click.echo(choice.reason)


@main.command()
@click.argument("sweep", nargs=-1, required=True)
@common
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to (default: SWEEP/report).")
@click.option(
    "--where", "constraints", multiple=True, metavar="CONSTRAINT", help="Draw it, choose within it."
)
@verb_options
@click.option(
    "--publish/--no-publish", default=True, help="Also tag the front in MLflow and attach the figures."
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
    **verbs: Any,
) -> None:
    """Write one self-contained HTML page, figures (PNG, SVG) and their CSV; works offline."""
    from analysis import answers
    from analysis import report as page

    df = read(sweep, tracking_uri, no_cache)
    asked = any(value not in (None, False) for value in verbs.values())
    choice, parsed = choose(df, constraints, verbs) if asked else (None, _parse(df, constraints))
    folder = out or _report_folder(sweep, df)
    # First, because it draws the same figures without a choice.
    published = _publish(df, tracking_uri) if publish else None
    written = page.write(df, folder, choice=choice, constraints=parsed)
    if as_json:
        say_json(answers.report(df, written, published))
        return
    click.echo(f"report   {written.page}")
    click.echo(f"figures  {', '.join(p.name for p in written.files)}")
    if published is not None:
        click.echo(
            f"MLflow   {len(published.front)} trials tagged pareto.front = true; figures and note on the parent"
        )


def _parse(df: pd.DataFrame, constraints: tuple[str, ...]) -> list[Constraint]:
    from analysis import constraints as hard
    from analysis import table

    return [hard.parse(one, table.config_columns(df)) for one in constraints]


def _report_folder(sweep: tuple[str, ...], df: pd.DataFrame) -> Path:
    folder = df.attrs["sweeps"][0].get("folder")
    return Path(folder) / "report" if folder and len(sweep) == 1 else Path("report")


def _publish(df: pd.DataFrame, tracking_uri: str | None) -> Any:
    """Publish a single sweep that lives in MLflow; several sweeps or a file have no parent to write to."""
    from analysis.publish import publish

    entries = df.attrs["sweeps"]
    if len(entries) != 1 or "parent_run_id" not in entries[0]:
        return None
    entry = entries[0]
    return publish(entry["folder"] or entry["id"], tracking_uri=tracking_uri or entry["tracking_uri"])


@main.command()
@click.argument("sweep")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write (whole or not at all)."
)
@click.option("--onnx", is_flag=True, help="Also write model.onnx, checked with onnxruntime.")
@click.option("--data-path", help="Where the data lies here, if not where the trial found it.")
@guarded
def export(
    sweep: str,
    constraints: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    out: Path,
    onnx: bool,
    data_path: str | None,
    **verbs: Any,
) -> None:
    """Choose as in select, prove the model in a fresh process, and write it with a model card.

    Refuses (exit code 1) if weights, MACs, accuracy or outputs are not what was logged.
    """
    from analysis import answers
    from analysis.export import export as write

    df = read(sweep, tracking_uri, no_cache)
    choice, _ = choose(df, constraints, verbs)
    exported = write(df, choice.trial, out, reason=choice.reason, onnx=onnx, data_path=data_path)
    if as_json:
        say_json(answers.export(df, choice, exported))
        return
    click.echo(choice.reason)
    click.echo()
    click.echo("proven in a fresh process:")
    for check in exported.checks:
        click.echo(f"  {check.name:<18} logged {check.logged:.10g}, now {check.measured:.10g}{check.note}")
    click.echo(f"exported {exported.trial} to {exported.folder}")


# The rest of the commands register themselves on ``main``.
from analysis import commands  # noqa: E402, F401
