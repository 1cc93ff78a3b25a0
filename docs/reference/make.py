"""The reference pages, made from the code: keys of a config, commands with their options, names in MLflow, Python names.

    make reference            # or: python docs/reference/make.py [--out docs/reference]

A test makes them again and compares, so they cannot fall behind the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any

import click
import yaml

HERE = Path(__file__).resolve().parent
MADE = "<!-- Made by docs/reference/make.py: change that, keys.yaml or the code, then `make reference`. -->"
SECTIONS = {
    "": "The sweep",
    "data": "Which images",
    "model": "Which network",
    "train": "How it is trained",
    "prune": "When and what is removed",
    "search": "What is searched for, how, and how long",
    "confirm": "What is trained again after the search",
    "baseline": "The unpruned model",
    "resources": "What one trial gets",
    "tracking": "Where MLflow is",
}
#: Keys of a trial that cannot be a range.
NEVER_SEARCHED = ("train.processes",)
#: Modules that users import; a module without __all__ shows what it defines itself.
PUBLIC = {
    "gcp_core": [
        "models", "data", "groups", "relevance", "criteria", "allocators", "repairs", "penalties", "rewrites", "methods",
        "selection", "surgery", "cost", "haste", "training", "checkpoint", "export", "config", "plan", "schema", "errors",
        "testing",
    ],
    "sweeps": [""],
    "analysis": [""],
}  # fmt: skip


# --- keys of a config ---------------------------------------------------------------------------------------------


def config_page() -> str:
    """Every key with what it means, its type and its default."""
    texts = yaml.safe_load((HERE / "keys.yaml").read_text(encoding="utf-8"))
    kinds = _kinds()
    lines = [
        MADE,
        "# Keys of a config",
        "A sweep is one YAML file ([the guide](../guide.md#1-write-down-the-search) shows one). Every key can be set on "
        "the command line as `section.key=value`. Keys with a tick may be a range that the search explores: "
        "`{choice: [..]}`, `{low: .., high: .., step: ..}`, or with `log: true`.",
        "An unknown key, or a value of the wrong type, is refused before anything is written.",
    ]
    for section, title in SECTIONS.items():
        keys = [key for key in kinds if key.rpartition(".")[0] == section]
        lines += [
            f"## {f'`{section}`: ' if section else ''}{title}",
            "| key | meaning | type | default | range |\n|---|---|---|---|---|",
        ]
        rows = [f"| `{key}` | {_cell(texts[key])} | {' | '.join(kinds[key])} |" for key in keys]
        lines[-1] += "\n" + "\n".join(rows)
    return "\n\n".join(lines) + "\n"


def _kinds() -> dict[str, tuple[str, str, str]]:
    """Key -> (type, default, may it be a range), in the order of the page."""
    from gcp_core.config import DataConfig, ModelConfig, PruneConfig, TrainConfig
    from sweeps.config.search import SearchConfig
    from sweeps.config.sweep_config import BaselineConfig, ConfirmConfig, ResourcesConfig, TrackingConfig

    searched = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "prune": PruneConfig}
    fixed = {
        "search": SearchConfig,
        "confirm": ConfirmConfig,
        "baseline": BaselineConfig,
        "resources": ResourcesConfig,
        "tracking": TrackingConfig,
    }
    found = {
        "name": ("text", "required", ""),
        "seed": ("whole number", "`0`", "✓"),
        "storage": ("text", "`runs`", ""),
        "ledger": ("text or null", "null", ""),
    }
    for section, cls in {**searched, **fixed}.items():
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            kind = _type_words(hints[field.name])
            key = f"{section}.{field.name}"
            tick = "✓" if section in searched and key not in NEVER_SEARCHED else ""
            found[key] = (kind, _default(field), tick)
    return found


def _type_words(hint: Any) -> str:
    """``int | None`` -> ``whole number or null``."""
    if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(_type_words(part) for part in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin is tuple:
        return "list"
    if origin is dict or hint is dict:
        return "mapping"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return words[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    if value is None:
        return "null"
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False).strip().removesuffix("...").strip()
    return f"`{text}`"


# --- commands -----------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command of both programs with its arguments and options, from the programs themselves."""
    from analysis.cli.program import main as analyze
    from sweeps.cli import main as sweep

    lines = [
        MADE,
        "# Commands",
        "Both programs take `--help`, and every command takes `--json`. Exit codes: 0 it worked, 1 it failed, 2 bad "
        "usage or configuration, 3 nothing is feasible.",
    ]
    for program, group in (("gcp-sweep", sweep), ("gcp-analyze", analyze)):
        lines.append(f"## {program}")
        context = click.Context(group, info_name=program)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            lines += list(_command(program, name, command, context))
    return "\n\n".join(lines) + "\n"


def _command(program: str, name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f"### {program} {name}"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{program} {name} {usage}\n```"
    yield _prose(command.help or "")
    rows = []
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        record = parameter.get_help_record(context)
        if record is None:
            continue
        option, said = record
        rows.append(f"| `{re.sub(r' *[|] *', ' or ', option)}` | {_cell(said)} |")
    if rows:
        yield "| option | meaning |\n|---|---|\n" + "\n".join(rows)


# --- names in MLflow ----------------------------------------------------------------------------------------------


def names_page() -> str:
    """Metrics, statuses and tags, from gcp_core.schema."""
    from gcp_core import schema

    tags = {name: value for name, value in vars(schema.Tag).items() if name.isupper()}
    lines = [
        MADE,
        "# Names in MLflow and in tables",
        "Every name that is logged comes from `gcp_core/schema.py`. Objectives, constraints and table columns use the "
        "short names of the final values. Accuracies are in per cent, drops in points, shares from 0 to 1.",
        "## Final values",
        "They are written once per model, as `final/NAME`.",
        _quantities(schema.FINALS.values(), short=True),
        "## Values of every epoch",
        _quantities(schema.PER_EPOCH.values(), short=False),
        "On the parent run, `front/hypervolume` says how far the front has come.",
        "## How a trial ends",
        "| status | in Optuna | in MLflow | meaning |\n|---|---|---|---|\n"
        + "\n".join(
            f"| `{s.name}` | {s.optuna} | {s.mlflow} | {_cell(s.text)} |" for s in schema.STATUSES.values()
        ),
        "## Tags",
        ", ".join(f"`{value}`" for value in sorted(tags.values())) + ".",
    ]
    return "\n\n".join(lines) + "\n"


def _quantities(values: Any, *, short: bool) -> str:
    rows = [
        f"| `{q.name if short else q.key}` | {q.unit} | {q.better or 'neither'} | {_cell(q.text)} |"
        for q in values
    ]
    return "| name | unit | better | meaning |\n|---|---|---|---|\n" + "\n".join(rows)


# --- Python -------------------------------------------------------------------------------------------------------


def public_names() -> dict[str, list[str]]:
    """Module that users import -> where each of its public names is defined, dotted."""
    found: dict[str, list[str]] = {}
    for package, modules in PUBLIC.items():
        for module in modules:
            name = f"{package}.{module}".rstrip(".")
            found |= _names_of(name, importlib.import_module(name))
    return found


def _names_of(name: str, module: ModuleType) -> dict[str, list[str]]:
    """The names of a module, and those of public modules that are its attributes."""
    listed = getattr(module, "__all__", None)
    names = listed if listed is not None else [n for n in vars(module) if _is_own(module, n)]
    own, deeper = [], {}
    for attribute in sorted(names):
        value = getattr(module, attribute)
        if inspect.ismodule(value):
            deeper |= {f"{name}.{attribute}": [f"{value.__name__}.{n}" for n in _own_names(value)]}
        else:
            own.append(f"{_home(value, name)}.{attribute}")
    return {name: own, **deeper}


def _own_names(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    return sorted(listed if listed is not None else [n for n in vars(module) if _is_own(module, n)])


def _is_own(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    routine = inspect.isclass(value) or inspect.isfunction(value)
    return routine and not name.startswith("_") and value.__module__ == module.__name__


def _home(value: Any, fallback: str) -> str:
    """Where a class or function is defined; constants are shown where they are listed."""
    return value.__module__ if inspect.isclass(value) or inspect.isfunction(value) else fallback


def python_page() -> str:
    """One heading per public module, one entry per public name; mkdocstrings fills them in from the docstrings."""
    lines = [
        MADE,
        "# Python",
        "These are the names to import. Everything else may move. Importing `analysis` or `sweeps` loads neither torch "
        "nor Ray nor MLflow; they are loaded when they are used.",
    ]
    for module, names in public_names().items():
        lines.append(f"## {module}")
        lines += [f"::: {name}\n    options:\n      heading_level: 3" for name in names]
    return "\n\n".join(lines) + "\n"


# --- text ---------------------------------------------------------------------------------------------------------


def _prose(text: str) -> str:
    """A command's help as Markdown."""
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", inspect.cleandoc(text)).replace("\f", "").replace("<", "&lt;")


def _cell(text: str) -> str:
    return (
        _bar(" ".join(text.split())).replace("<", "&lt;") if "`" not in text else _bar(" ".join(text.split()))
    )


def _bar(text: str) -> str:
    """A pipe would end the cell."""
    return text.replace("|", "\\|")


PAGES = {
    "config.md": config_page,
    "commands.md": commands_page,
    "names.md": names_page,
    "python.md": python_page,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    for name, page in PAGES.items():
        (out / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
