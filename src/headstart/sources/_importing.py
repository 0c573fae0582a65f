"""Import timm and torchvision without torch's compiler, which they load for what nobody may ever ask.

The garbage collector rests meanwhile: modules are made to stay, and looking through them takes a fifth of an import.

torchvision.ops.roi_align imports torch._dynamo.utils for one question (is_compile_supported), and timm decorates a few
methods with torch.compiler.disable: either brings the whole compiler and sympy, which take as long as torch itself.
While the two are imported the question goes to a stand-in that puts it on to the real module when it is asked, and the
decorator is torch's own late one (torch._disable_dynamo, which torch uses on its optimisers for the same reason).
Afterwards everything is as it was, and whoever wants the compiler finds it.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["import_timm", "import_torchvision", "uncollected"]

_UTILITIES = "torch._dynamo.utils"
_lock = threading.RLock()


@contextmanager
def uncollected() -> Iterator[None]:
    """Let the garbage collector rest inside the block, which makes what stays."""
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()


class _StandIn(ModuleType):
    """torch._dynamo.utils until something in it is used."""

    def is_compile_supported(self, device: Any) -> Any:
        """What the real function says."""
        return _real(self).is_compile_supported(device)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for __path__ and __spec__
            raise AttributeError(name)
        return getattr(_real(self), name)


def _real(stand_in: ModuleType) -> Any:
    if sys.modules.get(_UTILITIES) is stand_in:
        del sys.modules[_UTILITIES]
    return import_module(_UTILITIES)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Put off the import of torch._dynamo inside the block, unless it is there already."""
    import torch

    with _lock:
        late = getattr(torch, "_disable_dynamo", None)
        if late is None or "torch._dynamo" in sys.modules:
            yield
            return

        def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:  # noqa: ARG001
            return late(fn, recursive)

        stand_in = sys.modules[_UTILITIES] = _StandIn(_UTILITIES)
        own, torch.compiler.disable = torch.compiler.disable, disable
        try:
            yield
        finally:
            torch.compiler.disable = own
            if sys.modules.get(_UTILITIES) is stand_in:
                del sys.modules[_UTILITIES]


def import_torchvision() -> Any:
    """The module torchvision."""
    return _imported("torchvision")


def import_timm() -> Any:
    """The module timm."""
    return _imported("timm")


def _imported(name: str) -> Any:
    if name in sys.modules:
        return import_module(name)  # which waits for a thread that is still at it
    with _without_compiler(), uncollected():
        return import_module(name)
