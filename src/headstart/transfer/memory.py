"""When memory runs out: the same work in smaller pieces."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from headstart.errors import SettingsError

__all__ = ["enough", "halved", "in_pieces", "ran_out"]

T = TypeVar("T")
_SAID = ("allocate memory", "not enough memory", "out of memory")  # by torch's allocators and by the other engines


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a GPU, in torch on the CPU, or in Python itself."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)


def halved(size: int) -> int:
    """Half of a number of images, after what nobody needs was given back; SettingsError where one does not fit."""
    if size <= 1:
        raise _too_little()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2


def in_pieces(compute: Callable[[Tensor], T], batch: Tensor, size: int) -> tuple[list[T], int]:
    """`compute` on at most `size` rows of `batch` at a time, halved for as long as memory runs out.

    Returns the parts in their order and the size that went; SettingsError where not even one row fits.
    """
    while True:
        try:
            return [compute(part) for part in torch.split(batch, size)], size
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
        size = halved(min(size, len(batch)))  # out of the handler, which holds what filled the memory


@contextmanager
def enough() -> Iterator[None]:
    """Work that needs more memory than there is ends as SettingsError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise _too_little("memory ran out") from error


def _too_little(what: str = "memory ran out, with one image at a time too") -> SettingsError:
    return SettingsError(
        what, remedy="Choose a smaller --image-size or source, another --device, or a larger --accumulate."
    )
