"""headstart: the best honest classifier from a pretrained network and a small labelled set.

Everything public is here and is loaded when first asked for, so that `import headstart` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.api import (
        RunResult,
        compare,
        demo,
        doctor,
        evaluate,
        fit,
        inspect,
        predict,
        resume,
        sample,
        sources,
        subset,
    )
    from headstart.errors import DataError, HeadstartError, Interrupted, UserError
    from headstart.estimator import TransferClassifier
    from headstart.progress import Reporter
    from headstart.settings import Settings
    from headstart.ship.model import Model, load

__version__ = "0.1.0"

_HOMES = {
    "DataError": "headstart.errors",
    "HeadstartError": "headstart.errors",
    "Interrupted": "headstart.errors",
    "Model": "headstart.ship.model",
    "Reporter": "headstart.progress",
    "RunResult": "headstart.api",
    "Settings": "headstart.settings",
    "TransferClassifier": "headstart.estimator",
    "UserError": "headstart.errors",
    "compare": "headstart.api",
    "demo": "headstart.api",
    "doctor": "headstart.api",
    "evaluate": "headstart.api",
    "fit": "headstart.api",
    "inspect": "headstart.api",
    "load": "headstart.ship.model",
    "predict": "headstart.api",
    "resume": "headstart.api",
    "sample": "headstart.api",
    "sources": "headstart.api",
    "subset": "headstart.api",
}

__all__ = [
    "DataError",
    "HeadstartError",
    "Interrupted",
    "Model",
    "Reporter",
    "RunResult",
    "Settings",
    "TransferClassifier",
    "UserError",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "fit",
    "inspect",
    "load",
    "predict",
    "resume",
    "sample",
    "sources",
    "subset",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
