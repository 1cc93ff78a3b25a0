"""The only reader of MLflow: from a sweep to a tidy table."""
