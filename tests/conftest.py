"""For all tests: what is started here shall start little else."""

from __future__ import annotations

import os

# An MLflow server starts half a dozen job workers of its own, 200 MB each; nothing here uses them.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
