"""The fixtures of the tests of training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rigs import Rig, make_rig

from headstart.sources import open_source
from headstart.sources.base import Source


@pytest.fixture(autouse=True)
def _saved(_every_epoch_is_saved: None) -> None:
    """Every test of training can go on from every epoch."""


@pytest.fixture(scope="session")
def toy() -> Source:
    return open_source("toy")


@pytest.fixture
def rig(toy: Source) -> Callable[..., Rig]:
    """Make a Rig; the keywords are options of Settings, and those of `make_rig`."""
    return lambda **options: make_rig(source=options.pop("source", toy), **options)
