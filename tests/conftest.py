"""For all tests: what is started here shall start little else."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.postgresql import postgresql  # noqa: F401  (a fixture for all tests)

# An MLflow server starts half a dozen job workers of its own, 200 MB each; nothing here uses them.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


@pytest.fixture(scope="session")
def _s3() -> Iterator[str]:
    """The address of an S3 server on loopback; ``s3://`` leads there in this process and in those it starts."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        from pyarrow.fs import FileSystem

        store, bucket = FileSystem.from_uri("s3://sweeps?allow_bucket_creation=true")
        store.create_dir(bucket)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3: str) -> str:
    """A URL in a bucket that nobody else uses."""
    return f"s3://sweeps/{uuid.uuid4().hex[:8]}"
