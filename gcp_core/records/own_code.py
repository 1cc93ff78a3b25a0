"""The code of a user's own that a config names: it decides about weights, and no version of this package covers it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from gcp_core.config import digest
from gcp_core.errors import ConfigError
from gcp_core.factory import is_factory_name, load_factory
from gcp_core.records.checkpoint import file_digest
from gcp_core.slots import Registry, registered

_OURS = __name__.partition(".")[0]


def own_code(name: str, registry: Registry | None = None) -> list[str]:
    """Names the code that ``name`` stands for, where that is a user's own; empty where it is this package's.

    It is the file of the module that is named and that of the one in which the factory is written (a package may
    re-export it), each with all Python files of the outermost package around it. What these import from elsewhere is not
    looked at, nor is anything where the code is in no file, as in a notebook.

    Args:
        registry: of the slot that ``name`` fills; None = it names a model.
    """
    if registry is not None and name in registry.built_in:
        return []
    found = _digest_of(name, "" if registry is None else registry.group)
    return [found] if found else []


@lru_cache(maxsize=64)
def _digest_of(name: str, group: str) -> str:
    """Of the files as they are when this process, which runs them, first asks; "" where nobody's code is named."""
    factory = (registered(group, name) if group else "") or name
    if not is_factory_name(factory):
        return ""
    modules = {factory.partition(":")[0]}
    # Whoever builds it says what is wrong with it; torchvision:NAME is a name of ours, and no factory.
    with contextlib.suppress(Exception):
        modules.add(str(load_factory(factory, "", ConfigError).__module__))
    theirs = sorted(module for module in modules if module.partition(".")[0] != _OURS)
    return digest([[module, _files_of(module)] for module in theirs]) if theirs else ""


def _files_of(module: str) -> list[tuple[str, str]]:
    """(path, SHA-256) of the module's own file and all in its outermost package, sorted; the same wherever they lie."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: __main__ has no spec
        return []
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        return []
    file = Path(spec.origin)
    around = list(file.parents)[: module.count(".") + (file.stem == "__init__")]
    regular = [folder for folder in around if (folder / "__init__.py").is_file()]
    root = (regular or around or [file.parent])[-1]
    files = {file, *(_python_files(root, around) if around else ())}
    return [(path.relative_to(root).as_posix(), _digest(path)) for path in sorted(files)]


def _python_files(root: Path, around: list[Path]) -> Iterator[Path]:
    """What can be imported below ``root``; folders without such a file, of images say, are not gone into, save those
    ``around`` the module.
    """
    for place, folders, files in os.walk(root):
        found = [name for name in files if name.endswith(".py") and name.removesuffix(".py").isidentifier()]
        if not found and Path(place) not in around:
            folders.clear()
        yield from (Path(place, name) for name in found)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # gone meanwhile, or nobody may read it: then nobody can import it either
        return ""
