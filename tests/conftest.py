"""For all tests: what is started here shall start little else; with several workers (pytest-xdist) files are handed out
whole, long ones first.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import disk, prepared
from tests.postgresql import postgresql  # noqa: F401  (a fixture for all tests)

# An MLflow server starts half a dozen job workers of its own, 200 MB each; nothing here uses them.
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
# Workers share the cores: one thread each, and where a test asks for two they sleep while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Many processes are started here, and without files of bytecode each of them would compile the same code again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


#: Files that share what takes long to prepare (an export that is proven in a fresh process) go to one worker.
TOGETHER = {
    "tests/analysis/ship/test_export.py": "tests/analysis/ship",
    "tests/analysis/ship/test_register.py": "tests/analysis/ship",
}
#: Files (or the beginnings of their paths) of more than some seconds, longest first: what is handed out last is short,
#: so no worker waits long for another one. Everything else follows in its usual order.
LONG = (
    *(
        f"tests/integration/{name}.py"
        for name in (
            "sweeps/test_sweep_real",
            "sweeps/test_sweep_takeover",
            "sweeps/test_sweep_object_store",
            "test_whole_way_path",
            "sweeps/test_paths_killed",
        )
    ),
    "tests/test_page_blocks.py",
    "tests/test_examples.py",
    "tests/integration/",
    "tests/analysis/ship/",
    "tests/gcp_core/methods/",
    "tests/gcp_core/training/",
    "tests/sweeps/commands/",
    "tests/sweeps/storage/",
    "tests/gcp_core/pruning/",
    "tests/analysis/cli/",
    "tests/analysis/show/",
    "tests/benchmarks/test_gpu_kit.py",
    "tests/test_reference.py",
)


def pytest_configure(config: pytest.Config) -> None:
    disk.not_waited_for()
    if prepared.PLACE not in os.environ:  # workers get it from the process that starts them
        os.environ[prepared.PLACE] = tempfile.mkdtemp(prefix="gcp-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(prepared.PLACE), ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers go by :data:`LONG`; one process takes the tests as they come, and nothing depends on the order."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return

    def rank(item: pytest.Item) -> int:
        return next((i for i, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of garbage need not go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile``, but for :data:`TOGETHER` and without a sort by the number of tests."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def empty_store() -> Path:
    """An empty MLflow SQLite store, to be copied."""
    return prepared.empty_store()


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
