"""The one door: a sorted list, loaded lazily, every name of it real."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib.metadata import version

import pytest

import headstart


def test_the_public_list_is_sorted_and_short() -> None:
    assert headstart.__all__ == sorted(set(headstart.__all__))
    assert len(headstart.__all__) <= 30


def test_the_public_list_says_where_everything_lives() -> None:
    assert sorted(headstart._HOMES) == headstart.__all__
    assert {*headstart.__all__} <= {*dir(headstart)}


@pytest.mark.parametrize("name", headstart.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(headstart, name)
    assert value is getattr(importlib.import_module(headstart._HOMES[name][0]), headstart._HOMES[name][1])
    assert (value.__doc__ or "").strip()


def test_no_public_name_is_also_a_module() -> None:
    # importing headstart.NAME would put the module in the place of the function
    modules = {module.name for module in pkgutil.iter_modules(headstart.__path__)}
    assert not modules & {*headstart.__all__}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = headstart.fitt


def test_the_version_is_the_packages() -> None:
    assert headstart.__version__ == version("headstart")


def test_importing_headstart_imports_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "PIL", "timm", "sklearn", "rich", "typer", "pyarrow", "jinja2", "headstart.api"]
    code = f"import sys, headstart; headstart.Settings; print([n for n in {heavy} if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"
