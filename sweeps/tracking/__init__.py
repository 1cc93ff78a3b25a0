"""The one writer to MLflow."""
