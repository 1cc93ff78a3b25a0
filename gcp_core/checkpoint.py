"""Saved models under the name that users import; see :mod:`gcp_core.records.checkpoint`."""

from gcp_core.records.checkpoint import load_model, read_manifest

__all__ = ["load_model", "read_manifest"]
