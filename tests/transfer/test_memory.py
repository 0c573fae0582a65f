"""Where memory runs out the same work is done in smaller pieces, and where nothing fits that is told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import SettingsError
from headstart.transfer.memory import enough, halved, in_pieces, ran_out

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.02 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_lack_of_memory_is_known_by_all_its_names(error: Exception) -> None:
    assert ran_out(error)
    with pytest.raises(SettingsError, match=r"memory ran out\. Choose a smaller"), enough():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory")], ids=str)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert not ran_out(error)
    with pytest.raises(type(error)), enough():
        raise error
    with pytest.raises(type(error)):
        in_pieces(lambda _: (_ for _ in ()).throw(error), torch.zeros(4), 4)


@given(n=st.integers(1, 70), room=st.integers(1, 70), size=st.integers(1, 70))
def test_the_parts_are_the_batch_and_no_larger_than_there_is_room(n: int, room: int, size: int) -> None:
    batch, seen = torch.arange(float(n)), []

    def compute(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        if len(part) > room:
            raise torch.OutOfMemoryError
        return part * 2

    parts, left = in_pieces(compute, batch, size)
    assert torch.equal(torch.cat(parts), batch * 2)
    assert left == size if min(size, n) <= room else (room + 1) // 2 <= left <= room
    assert len(seen) <= 2 * n + 7


def test_one_image_that_does_not_fit_is_told() -> None:
    def never(_: torch.Tensor) -> None:
        raise MemoryError

    with pytest.raises(SettingsError, match="with one image at a time too"):
        in_pieces(never, torch.zeros(8), 8)
    with pytest.raises(SettingsError):
        halved(1)
    assert halved(7) == 3
