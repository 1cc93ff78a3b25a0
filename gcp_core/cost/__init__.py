"""What a model costs: multiply-adds, parameters, milliseconds."""

from gcp_core.cost.macs import Cost, fit_to_model, measure_cost

__all__ = ["Cost", "fit_to_model", "measure_cost"]
