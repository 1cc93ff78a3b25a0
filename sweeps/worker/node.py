"""What a node must have in common with the driver before it trains: versions, our code, the user's own, the data."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcp_core.errors import ConfigError, required

#: Packages that decide about a trial's weights or about what its process understands.
_PACKAGES = ("torch", "torchvision", "numpy")
_OURS = ("gcp_core", "sweeps")


@dataclass(frozen=True)
class Node:
    """What one node reports about itself.

    Attributes:
        versions: of Python, of the packages that matter, and a digest of our own source.
        missing: paths that do not exist there.
        unknown: packages that cannot be imported there.
        clock: seconds since 1970, when it was asked.
        error: why it could not say anything, empty if it could.
    """

    name: str
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    clock: float = 0.0
    error: str = ""


def describe(name: str, paths: Sequence[str], packages: Sequence[str] = ()) -> Node:
    """This machine; imports nothing heavy, and none of the packages that are asked for."""
    versions = {"Python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}
    missing = tuple(path for path in paths if not os.path.exists(path))
    unknown = tuple(package for package in packages if importlib.util.find_spec(package) is None)
    return Node(name, {**versions, "our code": _source_digest()}, missing, unknown, time.time())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _source_digest() -> str:
    """Names the source of our packages as they are installed here."""
    sha = hashlib.sha256()
    for package in _OURS:
        spec = required(importlib.util.find_spec(package), package)
        root = Path(required(spec.submodule_search_locations, package)[0])
        for path in sorted(root.rglob("*.py")):
            sha.update(f"{package}/{path.relative_to(root)}".encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


def check_nodes(driver: Node, nodes: Iterable[Node]) -> None:
    """The nodes run what the driver runs, know the user's own code, and see the data and the weights that trials begin
    with. A node that does not would fail trial after trial within seconds, and so be given the next one.

    Raises ConfigError naming every node that does not.
    """
    nodes = list(nodes)
    silent = [f"{node.name}: {node.error}" for node in nodes if node.error]
    if silent:
        raise ConfigError(
            f"{len(silent)} node(s) cannot run this project's code ({'; '.join(silent)})",
            "--address",
            "install the same environment on every node, or use one image",
        )
    differing = [
        f"{node.name} has {name} {node.versions.get(name, 'missing')}, the driver {version}"
        for node in nodes
        for name, version in driver.versions.items()
        if node.versions.get(name) != version
    ]
    if differing:
        raise ConfigError(
            f"nodes differ: {'; '.join(differing)}", "--address", "install the same versions on every node"
        )
    without = [
        f"{node.name} has no {name}" for node in nodes for name in node.unknown if name not in driver.unknown
    ]
    if without:
        raise ConfigError(
            f"a package that the config names is missing on at least one node: {'; '.join(without)}",
            "--address",
            "install it on every node, or put its folder on PYTHONPATH there before `ray start`",
        )
    without = [f"{node.name} has no {path}" for node in nodes for path in node.missing]
    if without:
        raise ConfigError(
            f"data is missing on at least one node: {'; '.join(without)}",
            "data.path",
            "what data.path and model.weights name must be at the same path on every node",
        )


@dataclass(frozen=True)
class Demands:
    """What nodes are asked for, as the driver's machine has it.

    Attributes:
        driver: the driver's machine, by its own name.
        paths: of data and weights.
        packages: of the user's own.
    """

    driver: Node
    paths: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def lacking(self, name: str) -> str:
        """What this machine, of that name, lacks, in words; empty = nothing, or it is the driver's own."""
        if name == self.driver.name:
            return ""
        try:
            check_nodes(self.driver, [describe(name, self.paths, self.packages)])
        except ConfigError as exc:
            return f"{exc.message} ({exc.hint})"
        return ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Demands:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        there = values["driver"].items()
        driver: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in there}
        return cls(Node(**driver), tuple(values["paths"]), tuple(values["packages"]))
