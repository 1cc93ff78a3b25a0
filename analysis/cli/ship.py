"""``gcp-analyze export`` and ``register``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from analysis.cli.shared import choose, common, guarded, read, say_json, verb_options


@click.command()
@click.argument("sweep")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it is written completely or not at all.",
)
@click.option("--onnx", is_flag=True, help="Also write model.onnx, checked with onnxruntime.")
@click.option(
    "--int8",
    is_flag=True,
    help="Also write model.onnx and model.int8.onnx (8 bits), and measure the accuracy of the latter.",
)
@click.option(
    "--openvino", is_flag=True, help="Also write model.onnx and model.xml for OpenVINO, and check them."
)
@click.option("--data-path", help="Where the data is on this machine, if not where the trial found it.")
@guarded
def export(
    sweep: str,
    constraints: tuple[str, ...],
    tracking_uri: str | None,
    as_json: bool,
    no_cache: bool,
    out: Path,
    onnx: bool,
    int8: bool,
    openvino: bool,
    data_path: str | None,
    **verbs: Any,
) -> None:
    """Choose as in select, prove the model in a fresh process, and write it with a model card.

    Refuses (exit code 1) if weights, MACs, accuracy or outputs are not what was logged.
    """
    from analysis.cli import answers
    from analysis.ship.export import export as write
    from analysis.show import terminal
    from analysis.text import digits

    df = read(sweep, tracking_uri, no_cache)
    choice, _ = choose(df, constraints, verbs)
    files = {"onnx": onnx, "int8": int8, "openvino": openvino}
    exported = write(df, choice.model, out, reason=choice.reason, data_path=data_path, **files)
    if as_json:
        say_json(answers.export(df, choice, exported))
        return
    click.echo(choice.reason)
    click.echo()
    click.echo("proven in a fresh process:")
    rows = [(c.name, digits(c.logged), digits(c.measured), c.note.strip()) for c in exported.checks]
    terminal.show(terminal.table(["", "logged", "now", ""], rows))
    if int8:
        accuracy = exported.proof["int8_val_accuracy"]
        click.echo(
            f"  in 8 bits: validation accuracy {accuracy:.2f} %, {exported.proof['val_accuracy']:.2f} % in 32"
        )
    click.echo(f"exported {exported.model} to {exported.folder}")


@click.command()
@click.argument("sweep")
@click.argument("constraints", nargs=-1)
@verb_options
@common
@click.option("--name", help="Name of the registered model (default: the sweep's name).")
@click.option("--data-path", help="Where the data is on this machine, if not where the trial found it.")
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
    from analysis.cli import answers
    from analysis.ship.export import export
    from analysis.ship.register import alias_for, check_alias, check_name, check_place
    from analysis.ship.register import register as put
    from gcp_core.errors import ConfigError
    from gcp_core.extras import missing

    package, hint = missing("onnx")
    if package:  # export would name its own option --onnx, which there is none of here
        raise ConfigError(f"needs {package}", "register", hint)
    df = read(sweep, tracking_uri, no_cache)
    choice, parsed = choose(df, constraints, verbs)
    row = choice.rows.iloc[0]
    name, alias = name or str(row["sweep"]), alias or alias_for(row, parsed)
    check_name(name)
    check_alias(alias)
    check_place(df, row)
    with tempfile.TemporaryDirectory() as work:
        exported = export(
            df, choice.model, Path(work) / "model", reason=choice.reason, onnx=True, data_path=data_path
        )
        registered = put(df, row, exported, name=name, alias=alias)
    if as_json:
        say_json(answers.register(df, choice, registered))
        return
    click.echo(choice.reason)
    what = "registered" if registered.new else "already registered:"
    moved = f" (the alias was on version {registered.moved_from})" if registered.moved_from else ""
    click.echo(f"{what} {registered.name} version {registered.version} as {registered.uri}{moved}")
