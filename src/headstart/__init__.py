"""headstart: the best honest classifier from a pretrained network and a small labelled set.

Everything public is here and is loaded when first asked for, so that `import headstart` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.api import (
        RunResult,
        advise,
        compare,
        evaluate,
        fit,
        inspect,
        predict,
        rank_sources,
        resume,
        sample,
        subset,
    )
    from headstart.api import sources as list_sources
    from headstart.errors import DataError, HeadstartError, Interrupted, UserError
    from headstart.estimator import TransferClassifier
    from headstart.extending import extend
    from headstart.progress import Reporter
    from headstart.pruning import prune
    from headstart.pushing import push
    from headstart.settings import Settings
    from headstart.ship.model import Model, load
    from headstart.shipping import explain, export, serve

__version__ = "0.1.0"

_PLACES = {
    "headstart.api": "RunResult advise compare evaluate fit inspect predict rank_sources resume sample subset",
    "headstart.errors": "DataError HeadstartError Interrupted UserError",
    "headstart.estimator": "TransferClassifier",
    "headstart.extending": "extend",
    "headstart.progress": "Reporter",
    "headstart.pruning": "prune",
    "headstart.pushing": "push",
    "headstart.settings": "Settings",
    "headstart.ship.model": "Model load",
    "headstart.shipping": "explain export serve",
}
_HOMES = {name: (module, name) for module, names in _PLACES.items() for name in names.split()}
_HOMES["list_sources"] = ("headstart.api", "sources")  # `headstart.sources` is the package of that name

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
    "advise",
    "compare",
    "evaluate",
    "explain",
    "export",
    "extend",
    "fit",
    "inspect",
    "list_sources",
    "load",
    "predict",
    "prune",
    "push",
    "rank_sources",
    "resume",
    "sample",
    "serve",
    "subset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
