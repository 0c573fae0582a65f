"""What every test shares: the data folder, a private cache, few threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def _private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own caches, and none reaches a hub."""
    monkeypatch.setenv("HEADSTART_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and pretrained networks."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared data at {SHARED}; set HEADSTART_SHARED")
    return SHARED
