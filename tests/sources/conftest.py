"""Sources of every family, built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from source_families import BUILDERS

from headstart.sources.base import Source

_BUILT: dict[str, Source] = {}


@pytest.fixture(params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> Source:
    """A source that the test may change: a copy of the one built first."""
    if request.param not in _BUILT:
        _BUILT[request.param] = BUILDERS[request.param]()
    return _BUILT[request.param].copy()
