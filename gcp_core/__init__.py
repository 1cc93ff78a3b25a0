"""Gradual channel pruning while training, with feature relevance scores (arXiv 2002.09958).

This package needs torch and numpy only; it imports neither ray, optuna, mlflow nor pydantic.
"""

__version__ = "0.1.0"
