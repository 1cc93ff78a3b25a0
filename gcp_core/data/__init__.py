"""Images in memory: data sets by name, stratified splits, augmentation on tensors."""

from gcp_core.data.images import Images, Normalise, RawData, Splits
from gcp_core.data.pipeline import evaluation_batches, training_batches
from gcp_core.data.registry import data_names, load_splits

__all__ = [
    "Images",
    "Normalise",
    "RawData",
    "Splits",
    "data_names",
    "evaluation_batches",
    "load_splits",
    "training_batches",
]
