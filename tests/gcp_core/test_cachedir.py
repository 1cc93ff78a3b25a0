"""Where this machine keeps what can be made again."""

from __future__ import annotations

from pathlib import Path

from gcp_core.cachedir import cache_folder


def test_our_variable_wins_over_the_desktops_and_that_over_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GCP_CACHE_DIR", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"
    monkeypatch.delenv("GCP_CACHE_DIR")
    assert cache_folder() == tmp_path / "xdg" / "gcp-sweep"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / "home" / ".cache" / "gcp-sweep"


def test_the_folder_is_absolute_and_is_not_made_by_asking(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GCP_CACHE_DIR", "below")
    assert cache_folder() == Path(tmp_path / "below")
    assert not cache_folder().exists()
