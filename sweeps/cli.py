"""``gcp-sweep``: check, plan, run and watch a sweep. Exit codes: 0 ok, 1 failed, 2 bad usage or config, 3 nothing
feasible.

Everything heavy is imported inside the commands: ``--help`` loads neither torch nor ray nor mlflow.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcp_core.extras import not_a_program

try:
    import click
except ModuleNotFoundError as exc:
    raise SystemExit(not_a_program("gcp-sweep", "sweep")) from exc

from gcp_core.errors import Diverged, GcpError, PlanError, RelevanceError, first_line
from gcp_core.redaction import RedactingFormatter, redact
from sweeps.records.disk import advice, is_full
from sweeps.storage.objects import StoreError

if TYPE_CHECKING:
    from sweeps.config.sweep_config import SweepConfig
    from sweeps.driver.launch import Sweep

OK, FAILED, USAGE, INFEASIBLE = 0, 1, 2, 3
#: Errors of the training itself; all others are the user's to mend.
_RUN_ERRORS = (Diverged, PlanError, RelevanceError)


def _command(function: Callable[..., int]) -> Callable[..., None]:
    """Turn the returned number into the exit code, and our errors into one line on stderr; with ``--json`` also into an
    answer on standard output.
    """

    @functools.wraps(function)
    def wrapped(**arguments: Any) -> None:
        def say(error: GcpError, text: str = "") -> int:
            if arguments.get("as_json"):
                click.echo(json.dumps(error.as_dict()))
            click.echo(text or f"error: {error}", err=True)
            return FAILED

        try:
            code = function(**arguments)
        except GcpError as exc:
            say(exc)
            code = FAILED if isinstance(exc, _RUN_ERRORS) else USAGE
        except StoreError as exc:
            code = say(GcpError(str(exc)))
        except OSError as exc:
            if not is_full(exc):
                raise
            code = say(GcpError(advice(exc.filename or "the sweep")))
        except KeyboardInterrupt:
            code = say(GcpError("interrupted"), "interrupted")
        except Exception as exc:
            said, text = _of_database(exc), traceback.format_exc()
            if not said and redact(text) == text:
                raise
            code = say(GcpError(said or first_line(exc)), "" if said else redact(text))
        sys.exit(code)

    return wrapped


def _of_database(exc: Exception) -> str:
    """What to do if the ledger's database went away meanwhile; empty = it is something else."""
    if not {"optuna", "sqlalchemy"} <= set(sys.modules):
        return ""
    from sweeps.records.database import database_away, database_errors

    return database_away(exc) if isinstance(exc, database_errors()) else ""


_config = click.argument("config", type=click.Path(dir_okay=False))
_overrides = click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
_sweep = click.argument("sweep", type=click.Path(file_okay=False))
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
_address = click.option(
    "--address",
    help="A running Ray cluster: auto = the one that this machine is in, or HOST:PORT (default: a Ray of its own, here).",
)


@click.group()
@click.version_option(package_name="gcp-sweep")
def main() -> None:
    """Search for the best way to prune a network while it trains."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(RedactingFormatter("%(levelname)s: %(message)s"))


@main.command()
@_config
@_overrides
@_address
@click.option("--new", is_flag=True, help="Start a new sweep beside an existing one of the same name.")
@_json
@_command
def run(config: str, overrides: tuple[str, ...], address: str | None, new: bool, as_json: bool) -> int:
    """Start the sweep in storage/name, or continue it: finished trials are kept, the others run."""
    checked = _checked(config, overrides)
    from sweeps.driver.launch import Launch
    from sweeps.driver.launch import run as run_sweep
    from sweeps.driver.progress import progress_here

    sweep = run_sweep(checked, launch=Launch(address=address, new=new, progress=progress_here(as_json)))
    code = _exit_code(sweep)
    if as_json:
        values = {f.name: getattr(sweep, f.name) for f in dataclasses.fields(sweep)}
        click.echo(json.dumps({**values, "folder": str(sweep.folder), "exit_code": code}))
    else:
        words = ["gcp-sweep", "run", config, *overrides]
        words += [f"name={sweep.name}"] if new else []
        words += ["--address", address] if address is not None else []
        from sweeps.commands.closing import closing_words

        text = closing_words(sweep, shlex.join(words), checked.database, checked.store, checked.of_paths)
        click.echo(redact(text))
    return code


@main.command()
@_config
@_overrides
@click.option("--untimed", is_flag=True, help="Do not measure how long training steps take here.")
@_json
@_command
def plan(config: str, overrides: tuple[str, ...], untimed: bool, as_json: bool) -> int:
    """Estimate what the sweep would cost, and find mistakes, before anything runs."""
    checked = _checked(config, overrides)
    from sweeps.commands.forecast import forecast

    prediction = forecast(checked, timed=not untimed)
    click.echo(json.dumps(dataclasses.asdict(prediction)) if as_json else prediction.text())
    return OK


@main.command()
@_config
@_overrides
@click.option("--address", help="Also check this running Ray cluster, auto or HOST:PORT (default: none).")
@_json
@_command
def check(config: str, overrides: tuple[str, ...], address: str | None, as_json: bool) -> int:
    """Check everything that could go wrong: config, data, model, targets, storage, tracking server, cluster."""
    checked = _checked(config, overrides)
    from sweeps.commands.forecast import forecast
    from sweeps.driver.cluster import ray_cluster
    from sweeps.driver.preflight import (
        check_disk,
        check_driver,
        check_ledger,
        check_space,
        check_storage,
        check_tracking,
        continued,
        leftovers,
    )
    from sweeps.storage.exchange import open_exchange
    from sweeps.storage.objects import store_errors
    from sweeps.storage.place import bring_home
    from sweeps.worker.gpu import check_for

    with store_errors():
        exchange = open_exchange(Path(checked.folder), checked.store)
        bring_home(exchange)
    checked = continued(checked)
    check_driver(exchange)
    check_storage(checked.folder, checked.store)
    check_disk(checked.folder)
    check_tracking(checked.tracking.uri)
    check_ledger(checked.database)
    unreachable = check_space(checked, check_for(checked.resources.gpus))
    check_disk(checked.folder, forecast(checked, timed=False, rule=False).disk_bytes)
    if address is not None:
        with ray_cluster(checked, address):
            pass
    notes = [f"target out of reach at {point}: {problem.message}" for point, problem in unreachable]
    notes += leftovers(checked.folder)
    if as_json:
        click.echo(json.dumps({"ok": True, "folder": checked.folder, "notes": notes}))
    else:
        click.echo("\n".join([*(f"note: {note}" for note in notes), f"ok: {checked.folder} can be run"]))
    return OK


@main.command()
@_sweep
@click.option(
    "--failed", is_flag=True, help="List the trials without a usable result, with their errors and logs."
)
@click.option(
    "--watch", is_flag=True, help="Show the sweep live until it ends. Ctrl-C ends the view, not the sweep."
)
@_json
@_command
def status(sweep: str, failed: bool, watch: bool, as_json: bool) -> int:
    """Show how far a sweep has come, while it runs or afterwards."""
    if watch:
        if failed or as_json:
            raise click.UsageError("--watch cannot be combined with --failed or --json")
        from sweeps.commands.watch import watch_here

        return OK if watch_here(sweep) else FAILED
    from sweeps.commands.status import sweep_status

    state = sweep_status(sweep)
    click.echo(json.dumps(dataclasses.asdict(state)) if as_json else state.text(failed))
    return OK


@main.command()
@_config
@_overrides
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder for the model and its checkpoints; without it nothing is kept.",
)
@_json
@_command
def trial(config: str, overrides: tuple[str, ...], out: str | None, as_json: bool) -> int:
    """Run one trial in this process, without Ray and MLflow. A range counts as its first value."""
    checked = _checked(config, overrides)
    one = checked.space.resolve(checked.space.first(), threads=checked.resources.cpus)
    from analysis.show.terminal import show as show_table
    from analysis.show.terminal import table
    from gcp_core.schema import FINALS
    from gcp_core.training import run_trial
    from sweeps.worker.gpu import more_than_trials

    if said := more_than_trials(one.train.device, checked.resources.gpus):
        click.echo(f"note: {said}", err=True)

    def show(report: Any) -> None:
        accuracy, macs = report.metrics["val/accuracy"], report.metrics["cost/macs"]
        removed = f", removed {report.plan.num_units} units" if report.plan is not None else ""
        of = f"/{one.train.epochs}" if one.train.epochs is not None else ""
        text = f"epoch {report.epoch:3d}{of}: val accuracy {accuracy:6.2f} %, MACs {macs:,.0f}{removed}"
        click.echo(text, err=as_json)

    def taken(snapshot: Any) -> None:
        finals = snapshot.finals
        kept = f"{100 * (1 - finals['macs_removed']):.1f} % of the MACs"
        cost = f"{finals['train_cost']:.1f} dense epochs of training"
        click.echo(f"  @{snapshot.level}: {finals['val_accuracy']:.2f} % at {kept}, {cost}", err=as_json)

    result = run_trial(one, report=show, snapshot=taken, checkpoint_dir=out)
    if as_json:
        values: dict[str, Any] = {
            "status": result.status,
            "finals": dict(result.finals),
            "weights_sha256": result.weights_sha256,
        }
        if one.is_path:
            values["snapshots"] = [
                {
                    "level": s.level,
                    "epoch": s.epoch,
                    "finals": dict(s.finals),
                    "weights_sha256": s.weights_sha256,
                }
                for s in result.snapshots
            ]
        click.echo(json.dumps({**values, "error": result.error, "config": one.to_dict()}))
    else:
        rows = [(name, f"{value:,.6g}", FINALS[name].unit) for name, value in result.finals.items()]
        click.echo(f"{result.status} {result.error}".strip())
        if rows:
            show_table(table(["", "value", "unit"], rows))
    return OK if result.status in ("complete", "stopped") else FAILED


@main.command()
@_sweep
@click.argument("model")
@_overrides
@_json
@_command
def polish(sweep: str, model: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Train a chosen snapshot (t0007@3) on, with one long cycle: `train.epochs=30` makes the model t0007@3+30."""
    from sweeps.config.reading import parse_overrides

    given = parse_overrides(overrides)
    from sweeps.commands.polish import epochs_of
    from sweeps.commands.polish import polish as train_on

    epochs = epochs_of(given)

    def show(report: Any) -> None:
        loss, accuracy = report.metrics["train/loss"], report.metrics["val/accuracy"]
        click.echo(
            f"epoch {report.epoch:3d}: train loss {loss:.4g}, val accuracy {accuracy:6.2f} %", err=True
        )

    done = train_on(sweep, model, epochs, show)
    click.echo(json.dumps(dataclasses.asdict(done)) if as_json else done.text())
    return FAILED if done.status == "interrupted" or done.unwritten else OK


@main.command()
@_sweep
@click.argument("model", metavar="MODEL")
@_json
@_command
def replay(sweep: str, model: str, as_json: bool) -> int:
    """Train a trial again, alone, from its ledger entry, and check that the weights are bit-identical.

    MODEL is a trial (t0007), a snapshot of a path (t0007@3), up to which the path is trained, or a polished one
    (t0007@3+30). Weights that `gcp-sweep clean` deleted are put back if the new ones are equal.
    """
    from sweeps.commands.replay import replay as train_again

    def show(report: Any) -> None:
        click.echo(f"epoch {report.epoch:3d}: train loss {report.metrics['train/loss']:.6g}", err=True)

    found = train_again(sweep, model, show)
    click.echo(json.dumps(dataclasses.asdict(found)) if as_json else found.text())
    return OK if found.equal else FAILED


@main.command()
@_sweep
@click.option(
    "--wait", type=float, default=120.0, show_default=True, help="How many seconds to wait for it to end."
)
@_json
@_command
def stop(sweep: str, wait: float, as_json: bool) -> int:
    """Ask the driver of a sweep, on this or another machine, to shut down cleanly, as Ctrl-C does."""
    from sweeps.commands.stop import stop as stop_driver

    found = stop_driver(sweep, wait)
    if as_json:
        values = dataclasses.asdict(found)
        del values["message"]
        click.echo(json.dumps(values))
    else:
        click.echo(found.message)
    return FAILED if found.running else OK


@main.command()
@_sweep
@click.option(
    "--keep",
    type=click.Choice(["all", "front", "none"]),
    default="all",
    show_default=True,
    help="Whose final weights to keep. front: those of the front, baselines and confirmation runs.",
)
@click.option(
    "--states",
    is_flag=True,
    help="Also remove the states from which paths of a complete sweep could continue.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_json
@_command
def clean(sweep: str, keep: str, states: bool, dry_run: bool, as_json: bool) -> int:
    """Free disk space: shared training states, checkpoints of ended trials, and weights that you do not want to keep."""
    from sweeps.commands.clean import clean as clean_folder

    cleaned = clean_folder(sweep, keep, dry_run, states)
    values = {**dataclasses.asdict(cleaned), "bytes": cleaned.bytes}
    click.echo(json.dumps(values) if as_json else cleaned.text())
    return OK


@main.command()
@_json
@_command
def methods(as_json: bool) -> int:
    """List the methods that prune.method can name: their slots, their sources, and what is a reading."""
    from gcp_core.methods import find_method, method_names

    found = [find_method(name) for name in method_names()]
    text = "\n\n".join(method.text() for method in found)
    click.echo(json.dumps([dataclasses.asdict(method) for method in found]) if as_json else text)
    return OK


def _checked(config: str, overrides: tuple[str, ...]) -> SweepConfig:
    from sweeps.config.reading import parse_overrides
    from sweeps.config.sweep_config import load_config

    return load_config(config, parse_overrides(overrides))


def _exit_code(sweep: Sweep) -> int:
    if sweep.state != "complete" or sweep.unwritten:
        return FAILED
    infeasible = sweep.statuses.get("infeasible")
    if sweep.statuses.get("complete") or (infeasible and sweep.feasible):
        return OK
    return INFEASIBLE if infeasible else FAILED
