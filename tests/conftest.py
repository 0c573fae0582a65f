"""What every test shares: the data folder, a private cache, few threads."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
CHROMIUM = os.environ.get("HEADSTART_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"


_ALWAYS = ("headstart.transfer.tuning._SAVE_SHARE", float("inf"))


@pytest.fixture
def _every_epoch_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the epochs are beside what a save costs."""
    monkeypatch.setattr(*_ALWAYS)


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


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in FOLDER/CLASS/file: three classes of twenty."""
    from toydata import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def split_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures in FOLDER/SPLIT/CLASS/file: ten, five and eight of each class."""
    from toydata import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", splits={"train": 10, "val": 5, "test": 8})


@pytest.fixture(scope="session")
def frozen_run(split_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on frozen features; to read, not to change."""
    import headstart

    folder = tmp_path_factory.mktemp("runs") / "frozen"
    headstart.fit(split_shapes, folder, source="toy", strategy="frozen", cache=False)
    return folder


@pytest.fixture(scope="session")
def tuned_run(split_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fine-tuning of all layers; to read, not to change."""
    import headstart

    folder = tmp_path_factory.mktemp("runs") / "tuned"
    options = {"strategy": "full", "epochs": 3, "batch_size": 16, "lr": 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*_ALWAYS)
        headstart.fit(split_shapes, folder, source="toy", cache=False, **options)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it or set HEADSTART_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    """tools/make_docs.py."""
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
