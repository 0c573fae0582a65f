"""What every test shares: the data folder, a private cache, few threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))


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
