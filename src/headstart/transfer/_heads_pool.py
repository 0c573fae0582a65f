"""Work on blocks of rows, spread over threads: one meeting of the threads a pass instead of one an operation.

Inside one small operation after the other, the threads of a numerical library wait for each other thousands of times a
second, and where other programs use the cores too, each wait may last a time slice. Here each thread works alone on its
blocks, with single-threaded operations. Blocks and the order of their results do not depend on the number of threads,
so neither does any sum over them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["pooled", "spread"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_one_at_a_time = threading.RLock()  # the number of torch's threads belongs to the whole process
_pool: list[ThreadPoolExecutor] = []


@contextmanager
def pooled() -> Iterator[None]:
    """Let `spread` use as many threads as torch has been given; torch's own operations use one each meanwhile."""
    import torch

    with _one_at_a_time:
        threads = torch.get_num_threads()
        if _pool or threads == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                _pool.append(pool)
                try:
                    yield
                finally:
                    _pool.clear()
        finally:
            torch.set_num_threads(threads)


def spread(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of `work` on each item, in order."""
    todo = list(items)
    return _pool[0].map(work, todo) if _pool and len(todo) > 1 else map(work, todo)
