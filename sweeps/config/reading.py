"""Reads a YAML file and merges ``key.path=value`` overrides into it; nothing is checked against the schema here.

The dialect is YAML 1.2 where PyYAML's 1.1 surprises: ``1e-3`` is a number (PyYAML reads text), ``off`` and ``no`` are
text (PyYAML reads false), and a key given twice is an error instead of the last one winning.
"""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gcp_core.errors import ConfigError

_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_INT = re.compile(r"[-+]?[0-9]+")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars and unique keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in rules if tag not in _REPLACED]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # <<: *other; what it brings gives way to what is written here
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either dialect reads as no text: ``08`` is text in YAML 1.1, and a number here."""


def _resolve(tag: str, pattern: re.Pattern[str], first: str) -> None:
    for dialect in (_Loader, _Dumper):
        dialect.add_implicit_resolver(tag, re.compile(rf"^(?:{pattern.pattern})$"), list(first))


_resolve("tag:yaml.org,2002:bool", _BOOL, "tTfF")
_resolve("tag:yaml.org,2002:int", _INT, "-+0123456789")
_resolve("tag:yaml.org,2002:float", _FLOAT, "-+.0123456789")
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(node.value)
)  # PyYAML reads 010 as 8


def parse_yaml(text: str, where: str) -> Any:
    """The value a YAML text stands for; a syntax error is a ConfigError with line and column."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(exc, "problem", None) or str(exc)
        raise ConfigError(f"not valid YAML: {place}{problem}", where) from exc


def to_yaml(tree: Mapping[str, Any]) -> str:
    """The text that stands for ``tree`` in this dialect and in PyYAML's own."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def read_tree(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The raw nested mapping of a YAML file (or a copy of a mapping given directly)."""
    if isinstance(source, Mapping):
        return plain(source)
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ConfigError(f"cannot read the config file: {reason}", str(path)) from exc
    tree = parse_yaml(text, str(path))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"holds {type(tree).__name__}, not a mapping of keys", str(path))
    return tree


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """``["train.lr=1e-3"]`` -> ``{"train.lr": 0.001}``; values are YAML, ranges included."""
    overrides: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{word!r} is not of the form key.path=value", "command line")
        overrides[path.strip()] = parse_yaml(text, path.strip())
    return overrides


def merge(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with each dotted path of ``overrides`` set; a value replaces whatever stood there."""
    merged = plain(tree)
    for path, value in overrides.items():
        node = merged
        *parents, leaf = path.split(".")
        for depth, name in enumerate(parents):
            if node.get(name) is None:
                node[name] = {}
            node = node[name]
            if not isinstance(node, dict):
                here = ".".join(parents[: depth + 1])
                raise ConfigError(f"cannot be set: {here} is {node!r}, not a section", path)
        node[leaf] = plain(value)
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"lr": 0.1}}`` -> ``{"train.lr": 0.1}``; lists and empty mappings stay values."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def plain(value: Any) -> Any:
    """A copy with lists for tuples, dicts for mappings and Python's own numbers and text: what YAML and JSON can hold."""
    if type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's, by the names of its versions
        return bool(value)
    # NumPy's numbers say of themselves that they are numbers; YAML writes none of them.
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value
