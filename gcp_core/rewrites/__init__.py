"""Rewrites: modules that a network has while it is trained, and that are folded away before it leaves. One file each."""

from gcp_core.rewrites.base import Lifted, Rewrite
from gcp_core.rewrites.folding import added_macs, check_folded, folded
from gcp_core.rewrites.gates import Gate, NormGates, gates_of
from gcp_core.rewrites.registry import REWRITES, build_rewrite, rewrite_names

__all__ = [
    "REWRITES",
    "Gate",
    "Lifted",
    "NormGates",
    "Rewrite",
    "added_macs",
    "build_rewrite",
    "check_folded",
    "folded",
    "gates_of",
    "rewrite_names",
]
