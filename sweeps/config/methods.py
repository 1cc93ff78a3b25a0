"""``prune.method`` in a sweep's config: the slots that a method fills, where one is named and where several are searched.

A method that is named fills its slots at once: the merged config says everything. Where methods are a range, each point
fills its own, so the merged config leaves these slots out; the trials' configs have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcp_core.errors import ConfigError
from gcp_core.methods import filled, find_method


def with_slots(tree: Mapping[str, Any]) -> tuple[Mapping[str, Any], frozenset[str] | None]:
    """(the raw config with the slots of the method it names, the keys it sets where a method is searched, else None).

    Raises:
        ConfigError: there is no such method, or a method has slots in a range of which it cannot be the reason.
    """
    prune = tree.get("prune")
    method = prune.get("method") if isinstance(prune, Mapping) else None
    if method is None:
        return tree, None
    given = frozenset(
        f"{part}.{name}"
        for part in ("train", "prune")
        if isinstance(tree.get(part), Mapping)
        for name in tree[part]
    )
    if isinstance(method, str):
        return (filled(tree, given) if _sections_are_mappings(tree) else tree), None
    return tree, given if isinstance(method, Mapping) else None


def open_slots(merged: Mapping[str, Any], given: frozenset[str] | None) -> list[str]:
    """Keys that are another one's at every point: those that a searched method fills and the user has not set.

    Raises:
        ConfigError: one of the methods is not there.
    """
    if given is None:
        return []
    choices = merged["prune"]["method"].get("choice") or ()
    methods = [_found(name, i) for i, name in enumerate(choices) if name is not None]
    return sorted({path for method in methods for path in method.of(path=False) if path not in given})


def _found(name: str, place: int) -> Any:
    try:
        return find_method(name)
    except ConfigError as exc:
        raise ConfigError(exc.message, f"prune.method.choice.{place}", exc.hint) from None


def _sections_are_mappings(tree: Mapping[str, Any]) -> bool:
    """Otherwise the config is refused for that, with its place."""
    return all(isinstance(tree.get(part, {}), Mapping | None) for part in ("train", "prune"))
