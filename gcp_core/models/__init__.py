"""Networks by name: VGG-BN, CIFAR ResNets, torchvision classifiers, and anyone's own factory."""

from gcp_core.models.registry import build_model, model_names

__all__ = ["build_model", "model_names"]
