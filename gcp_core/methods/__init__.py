"""Methods: named compositions of slots, each with its source and what of it is a reading. One file per method.

>>> "gcp" in method_names()
True
"""

from gcp_core.methods.base import Method
from gcp_core.methods.registry import METHODS, filled, find_method, method_names, with_method

__all__ = ["METHODS", "Method", "filled", "find_method", "method_names", "with_method"]
