"""What audits saw is kept by content: the same bytes are not decoded again, and nothing else stands for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.data import audit as auditing
from headstart.data.audit import audit
from headstart.data.looked import LookedAt, Seen, _row, _seen
from headstart.data.read import read
from toydata import picture, write_shapes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded from now on."""
    names: list[str] = []
    examine = auditing.examine

    def counted(data: bytes, name: str, **more: Any) -> Any:
        names.append(name)
        return examine(data, name, **more)

    monkeypatch.setattr(auditing, "examine", counted)
    return names


@given(
    st.text(max_size=8), st.text(max_size=8), st.integers(1, 10**6), st.integers(1, 10**6), st.text(max_size=20),
    st.one_of(st.just(b""), st.binary(min_size=96, max_size=96)),
)  # fmt: skip
def test_a_finding_comes_back_as_it_was_or_not_at_all(
    mode: str, kind: str, width: int, height: int, oddity: str, fingerprint: bytes
) -> None:
    seen = Seen("", "a" * 64, mode, kind, width, height, oddity, fingerprint)
    row = _row(seen)
    assert row is None or _seen(row, "a" * 64) == seen


def test_a_second_audit_finds_the_same_and_decodes_nothing(tmp_path: Path, decoded: list[str]) -> None:
    data = read(write_shapes(tmp_path / "data", per_class=6))
    plain = audit(data)
    decoded.clear()
    first = audit(data, known=LookedAt())
    assert len(decoded) == 18
    again = audit(data, known=LookedAt())
    assert len(decoded) == 18
    assert plain == first == again


def test_new_bytes_under_an_old_name_are_looked_at(tmp_path: Path, decoded: list[str]) -> None:
    folder = write_shapes(tmp_path / "data", per_class=3)
    audit(read(folder), known=LookedAt())
    decoded.clear()
    picture("disc", 99).resize((48, 40)).save(folder / "bar" / "000.png")
    _, facts = audit(read(folder), known=LookedAt())
    assert decoded == ["bar/000.png"]
    assert facts.sizes["width"]["max"] == 48


def test_what_cannot_be_read_is_looked_at_every_time(tmp_path: Path, decoded: list[str]) -> None:
    folder = write_shapes(tmp_path / "data", per_class=3)
    (folder / "bar" / "000.png").write_bytes(b"no picture")
    for _ in range(2):
        decoded.clear()
        clean, _ = audit(read(folder), known=LookedAt())
        assert "bar/000.png" in decoded
        assert [entry.file for entry in clean.skipped] == ["bar/000.png"]


def test_files_that_cannot_be_opened_stand_between_known_ones(tmp_path: Path, decoded: list[str]) -> None:
    folder = write_shapes(tmp_path / "pictures", per_class=8)
    for number in range(3):
        (folder / "disc" / f"00{number}-link.png").symlink_to("nowhere.png")
    first = audit(read(folder), known=LookedAt())
    count = len(decoded)
    assert audit(read(folder), known=LookedAt()) == first
    assert len(decoded) == count == 24
    assert [entry.reason for entry in first[1].skipped] == ["a link to nothing"] * 3


def test_a_damaged_row_is_looked_at_again(tmp_path: Path, decoded: list[str]) -> None:
    from headstart import files

    data = read(write_shapes(tmp_path / "data", per_class=3))
    plain = audit(data, known=LookedAt())
    (shard,) = (files.home() / "seen").rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-40] ^= 0xFF
    shard.write_bytes(bytes(content))
    decoded.clear()
    assert audit(data, known=LookedAt()) == plain
    assert 1 <= len(decoded) < 9


def test_where_nothing_may_be_kept_the_audit_goes_on_without(tmp_path: Path, decoded: list[str]) -> None:
    data = read(write_shapes(tmp_path / "data", per_class=3))
    for _ in range(2):
        decoded.clear()
        audit(data, known=LookedAt(bound=0))
        assert len(decoded) == 9
