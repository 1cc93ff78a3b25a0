"""Merging a finished model's redundant channels while it runs (HASTE): nothing is removed, nothing is trained."""

from gcp_core.haste.convolution import HasteConv2d
from gcp_core.haste.hashing import Hashing
from gcp_core.haste.measure import Hashed, Measured, measure_haste
from gcp_core.haste.swap import Swappable, Swapped, swap, swappable

__all__ = [
    "Hashed",
    "Hashing",
    "HasteConv2d",
    "Measured",
    "Swappable",
    "Swapped",
    "measure_haste",
    "swap",
    "swappable",
]
