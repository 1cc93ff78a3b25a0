"""Sweeps of pruning-while-training trials: Ray Tune runs them, Optuna proposes them, MLflow shows them."""
