"""``gcp-analyze register`` says what it lacks before it reads anything."""

import pytest
from click.testing import CliRunner

from analysis.cli.program import main


def test_register_without_onnx_names_itself_and_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcp_core.extras.is_installed", lambda package: False)
    done = CliRunner().invoke(main, ["register", "no-such-sweep", "--best", "accuracy"])
    assert done.exit_code == 2
    assert "error: register: needs onnx (pip install 'gcp-sweep[onnx]')" in done.stderr
