"""``gcp-analyze bench``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis import text
from analysis.cli.shared import check_writable, choose, common, guarded, read, say_json, verb_options

if TYPE_CHECKING:
    from analysis.ship.bench import Bench
    from analysis.ship.hashed import HasteResult

#: As in ``analysis.ship.bench``, which would load torch.
_RUNTIMES = ("torch", "onnxruntime", "onnxruntime int8", "openvino")


def _numbers(_context: object, _parameter: object, value: str) -> tuple[int, ...]:
    """``1,64`` as numbers."""
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers above 0 such as 1,64")
    return found


@click.command()
@click.argument("model", metavar="SWEEP|EXPORT")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option("--batch", default="1,64", show_default=True, callback=_numbers, help="Batch sizes.")
@click.option("--threads", default="1", show_default=True, callback=_numbers, help="Numbers of threads.")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    type=click.Choice(_RUNTIMES),
    help="Runtimes to measure (default: all that are installed).",
)
@click.option("--latency-only", is_flag=True, help="Skip accuracy and int8, which need the data.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Longest time per line."
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu: count only this process's own time, for busy machines; one thread only.",
)
@click.option(
    "--haste",
    metavar="SETTINGS",
    help='Merge similar channels while the model runs: "L=4,8,12 s=2/3 images=1000".',
)
@click.option("--data-path", help="Where the data is on this machine, if not where the trial found it.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file (default: beside the model)."
)
@guarded
def bench(
    model: str,
    constraints: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    batch: tuple[int, ...],
    threads: tuple[int, ...],
    runtimes: tuple[str, ...],
    latency_only: bool,
    seconds: float,
    clock: str,
    haste: str | None,
    data_path: str | None,
    out: Path | None,
    **verbs: Any,
) -> None:
    """Time a model on this machine beside the unpruned one; say what 8 bits cost in accuracy.

    Choose as in select (usually --id t0007@3), or name a folder that export wrote. Changed weights are refused. The
    report of the sweep shows the result.
    """
    from analysis.runs.artifacts import sweep_of
    from analysis.ship import checkpoints
    from analysis.ship.measured import FOLDER

    hashing = None
    if haste is not None:
        from analysis.ship import hashed

        hashing = hashed.parse(haste)
    with tempfile.TemporaryDirectory() as work:
        reason = ""
        if checkpoints.is_export(Path(model)):
            files, place = checkpoints.from_export(Path(model)), Path(model) / "bench.json"
        else:
            df = read(model, tracking_uri, no_cache)
            choice, _ = choose(df, constraints, verbs)
            files, reason = checkpoints.from_sweep(df, choice.rows.iloc[0], Path(work)), choice.reason
            folder = sweep_of(df, choice.rows.iloc[0]).get("folder")
            place = Path(folder or ".") / FOLDER / f"{choice.model}.json"
        from analysis.ship.bench import Plan, write
        from analysis.ship.bench import bench as measure

        plan = Plan(
            batch_sizes=batch,
            threads=threads,
            runtimes=runtimes or None,
            accuracy=not latency_only,
            seconds=seconds,
            clock=clock,
            data_path=data_path,
            haste=hashing,
        )
        check_writable(out or place)
        result = measure(files, plan)
    written = write(result, out or place)
    if as_json:
        say_json(
            {"answer": "bench", "version": 1, "reason": reason, "file": str(written), **result.as_dict()}
        )
        return
    if reason:
        click.echo(f"{reason}\n")
    click.echo("\n".join([*lines(result), f"written to {written}"]))


def lines(result: Bench) -> list[str]:
    """The tables as text."""
    about = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    found = [
        f"{result.model} beside the unpruned network ({result.dense}); median milliseconds per batch with 95 % intervals",
        about,
        "",
        f"{'runtime':<17} {'batch':>5} {'threads':>7}  {'unpruned ms':>24}  {'pruned ms':>24}  pruned / unpruned",
    ]
    for timed in result.timed:
        t = timed.latency
        dense = _interval(t.reference_ms, t.reference_low_ms, t.reference_high_ms)
        pruned = _interval(t.median_ms, t.low_ms, t.high_ms)
        wide = "" if t.narrow else "  (wide)"
        share = _interval(t.share, t.share_low, t.share_high)
        found.append(
            f"{timed.runtime:<17} {t.batch_size:>5} {t.threads:>7}  {dense:>24}  {pruned:>24}  {share}{wide}"
        )
    if result.accuracies:
        found += ["", f"validation accuracy, {result.accuracies[0].images} images"]
        found += [
            f"{a.runtime:<17} pruned {a.model:.2f} %"
            + ("" if a.dense is None else f", unpruned {a.dense:.2f} %")
            for a in result.accuracies
        ]
    if result.haste is not None:
        found += ["", *_haste_lines(result.haste)]
    found += ["", *(f"not measured: {runtime} ({why})" for runtime, why in result.skipped.items())]
    return found


def _haste_lines(found: HasteResult) -> list[str]:
    """Accuracy, multiply-adds and time with merged channels, one line per number of bits."""
    lines = [
        f"HASTE (a reading of it), {text.plural(found.images, 'validation image')}: "
        "similar channels merged while the model runs "
        f"(s {found.sparsity:.3g}, seed {found.seed}, centred by {found.centre})",
        f"as it is: {found.accuracy:.2f} %, {text.count(found.macs)} multiply-adds and {found.ms:.3g} ms per image",
        f"{'L':>3}  {'accuracy':>9}  {'multiply-adds, mean ± sd':>26}  {'of as it is':>11}  {'overhead':>8}  "
        "time / as it is",
    ]
    for one in found.hashed:
        macs = f"{text.count(one.macs_mean)} ± {text.count(one.macs_sd)}"
        time = _interval(one.time_share, one.time_share_low, one.time_share_high)
        overhead = sum(one.parts[part] for part in ("hashing", "averages", "filter_sums"))
        lines.append(
            f"{one.bits:>3}  {one.accuracy:>7.2f} %  {macs:>26}  {100 * one.macs_mean / found.macs:>9.1f} %  "
            f"{100 * overhead / found.macs:>6.1f} %  {time}"
        )
    lines.append(
        "overhead (in the multiply-adds): hashing, averages and sums of filters, of the model as it is"
    )
    left = ", ".join(f"{name} ({why})" for name, why in found.left.items())
    lines.append(
        f"{text.plural(len(found.replaced), 'convolution')} replaced; left as they are: {left or 'none'}"
    )
    return lines


def _interval(middle: float, low: float, high: float) -> str:
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"
