"""Files that a config names: as whole paths, because a trial's process works in a folder of its own, and whoever reads or
continues the sweep may work in another one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gcp_core.factory import is_factory_name

#: Keys of files that trials read.
_FILES = (("data", "path"), ("model", "weights"))
#: What follows is a file: relative, or behind a fourth stroke a whole path.
_SQLITE = "sqlite:///"


def with_whole_paths(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a raw config in which what trials read is named from the root, also where it is a range, and so are
    databases in files (``tracking.uri``, ``ledger``).

    A relative path counts from the folder in which one types the command. What a data set of the user's own means by its
    ``data.path`` is its own affair: it is made whole only where it is there.
    """
    whole = dict(tree)
    for part, key in _FILES:
        section = tree.get(part)
        if not isinstance(section, Mapping):
            continue
        value = section.get(key)
        only_there = part == "data" and is_factory_name(str(section.get("name")))
        if isinstance(value, Mapping) and isinstance(value.get("choice"), list):
            choices = [_whole(one, only_there) for one in value["choice"]]
            whole[part] = {**section, key: {**value, "choice": choices}}
        elif isinstance(value, str):
            whole[part] = {**section, key: _whole(value, only_there)}
    if "ledger" in tree:
        whole["ledger"] = _whole_url(tree["ledger"])
    tracking = tree.get("tracking")
    if isinstance(tracking, Mapping) and "uri" in tracking:
        whole["tracking"] = {**tracking, "uri": _whole_url(tracking["uri"])}
    return whole


def _whole_url(value: Any) -> Any:
    file = value.removeprefix(_SQLITE) if isinstance(value, str) and value.startswith(_SQLITE) else ""
    return f"{_SQLITE}{os.path.abspath(file)}" if file and not file.startswith(("/", ":memory:")) else value


def _whole(value: Any, only_there: bool) -> Any:
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = os.path.abspath(os.path.expanduser(value))
    return value if only_there and not os.path.exists(path) else path
