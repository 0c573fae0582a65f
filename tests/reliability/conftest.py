"""What the reliability tests share: a data folder that must not change, and marks on every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _faults import Forge

from toydata import folder_hash, write_shapes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test here is `long` where it says so, and else `fast`."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("long") is None:
            item.add_marker(pytest.mark.fast)


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Path]:
    """A folder of drawn pictures in three classes; fails where one of its bytes was changed."""
    folder = write_shapes(tmp_path / "pictures", per_class=12)
    before = folder_hash(folder)
    yield folder
    assert folder_hash(folder) == before, "the user's pictures were changed"


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """A warm process that runs command lines in forked children."""
    made = Forge()
    yield made
    made.close()
