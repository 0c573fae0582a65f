"""F8 of the catalogue: mutated files through every parser of ours; a refusal or an answer, and no other error."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from _fuzz import Target, mutated, targets
from figures import record

import headstart


@pytest.fixture(scope="module")
def parsers(frozen_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    place, export = tmp_path_factory.mktemp("fuzz"), None
    if find_spec("onnx") and find_spec("onnxruntime"):
        run = Path(shutil.copytree(frozen_run, place / "exported"))
        headstart.export(run)
        export = run / "exports" / "onnx-fp32"
    (place / "parsers").mkdir()
    return targets(frozen_run, place / "parsers", export)


def fuzzed(target: Target, n: int, *, seed: int) -> Counter[str]:
    """How many of `n` mutants were read and how many refused; whatever else is raised goes on to the test."""
    draw, found = random.Random(seed), Counter[str]()
    for number in range(n):
        data = mutated(draw.choice(target.seeds), draw)
        try:
            target.read(data)
            found["read"] += 1
            words = ""
        except target.allowed as error:
            found["refused"] += 1
            words = str(error)
        except Exception as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {data[:600]!r}") from error
        assert "\n" not in words, (number, data[:300])
        assert len(words) < 3_000, (number, data[:300])
    return found


COUNTS = {"headstart.json": 40, "config.json": 60, "report of run.json": 30}
"""Mutants in the fast set of what is slow to read; 150 of the others."""

PARSERS = (
    "headstart.json", "config.json", "settings.json", "run.json", "predictions.csv", "state.json", "report of run.json",
    "a shard of the store", "safetensors", "an archive", "multipart", "CSV", "TSV", "JSON lines", "OpenVINO",
    "certificate.json", "ONNX",
)  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_f8_a_parser_answers_or_refuses_whatever_it_is_given(name: str, parsers: dict[str, Target]) -> None:
    if name not in parsers:
        pytest.skip("onnx and onnxruntime are not installed")
    target = parsers[name]
    for data in target.seeds[:2]:
        target.read(data)  # as it is, it is read
    found = fuzzed(target, COUNTS.get(name, 150), seed=0)
    assert found["refused"] > 0 or name in ("report of run.json", "state.json"), found


@pytest.mark.long
@pytest.mark.parametrize("name", PARSERS)
def test_f8_thousands_of_mutants(name: str, parsers: dict[str, Target]) -> None:
    n = 40 * COUNTS.get(name, 150)
    found = fuzzed(parsers[name], n, seed=1)
    record("F8: mutated files", parser=name, mutants=n, read=found["read"], refused=found["refused"], crashes=0)


def test_the_fuzz_sees_a_parser_that_errs() -> None:
    target = Target((b"abc",), lambda data: data.index(b"b") and data.decode("ascii"), (ValueError,))
    assert fuzzed(target, 50, seed=0)["refused"] > 0
    with pytest.raises(AssertionError, match="mutant"):
        fuzzed(Target((b"abc",), lambda data: data[1], (ValueError,)), 200, seed=0)


def test_a_seed_draws_the_same_mutants() -> None:
    one, two = (random.Random(5) for _ in range(2))
    assert [mutated(b'{"a": [1, 2]}', one) for _ in range(50)] == [mutated(b'{"a": [1, 2]}', two) for _ in range(50)]
