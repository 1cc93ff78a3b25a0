"""Training steps: what happens to a network with each batch, one kind per file."""

from gcp_core.steps.choice import Steps, build_step, scaler_of
from gcp_core.steps.step import Step, loss_of

__all__ = ["Step", "Steps", "build_step", "loss_of", "scaler_of"]
