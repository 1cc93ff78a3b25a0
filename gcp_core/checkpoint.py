"""Saved models under the name that users import; see :mod:`gcp_core.training.checkpoint`."""

from gcp_core.training.checkpoint import load_model, read_manifest

__all__ = ["load_model", "read_manifest"]
