"""Joining a Ray cluster that refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[3]
JOIN = """
import sys
from pathlib import Path
from gcp_core.errors import ConfigError
from sweeps.driver.cluster import ray_cluster
from tests.sweeps.inline import config
try:
    with ray_cluster(config(Path(sys.argv[1])), "127.0.0.1:6399"):
        pass
except ConfigError as exc:
    print(exc)
"""


def test_a_missing_token_is_one_line_that_says_where_ray_looks_for_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    said = subprocess.run(
        [sys.executable, "-c", JOIN, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert said.stdout == (
        "--address: cannot connect to a Ray cluster: 127.0.0.1:6399: Token authentication is enabled but no "
        "authentication token was found (~/.ray/auth_token or RAY_AUTH_TOKEN is where Ray looks for it)\n"
    ), said.stderr
