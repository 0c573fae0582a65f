"""Advice before a run looks at training items alone, spares a later fit the work, and says what it could not use."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import advising, api, cli
from headstart.errors import DataError, SettingsError, SourceError
from headstart.progress import Silent
from headstart.settings import Settings
from headstart.sources import open_source
from headstart.stages import prepare
from headstart.transfer.interrupt import Stop
from headstart.transfer.rank import log_me

TOY = Path(headstart.__file__).parent / "sources" / "toy"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder of sources: a copy of the toy."""
    shutil.copytree(TOY, tmp_path / "sources" / "copy")
    return tmp_path / "sources"


def ranked(data: Any, *addresses: str, **options: Any) -> list[dict[str, Any]]:
    return advising.rank_sources(
        data, addresses, settings=Settings.of(**{"engine": "torch", **options}), reporter=Silent()
    )


def test_pretrained_features_rank_above_those_of_a_random_network(split_shapes: Path) -> None:
    rows = ranked(split_shapes, "random:resnet18", "toy", image_size=32)
    assert [row["source"] for row in rows] == ["toy", "random:resnet18"]
    assert rows[0]["logme"] > rows[1]["logme"]
    assert {*rows[0]} == {"source", "logme", "h_score", "items", "of", "probe", "parameters", "seconds"}
    assert rows[0]["items"] == rows[0]["of"] == 30
    assert rows[0]["parameters"] == sum(p.numel() for p in open_source("toy").network.parameters())
    assert 0 < rows[0]["probe"] <= 1


def test_only_training_items_count(split_shapes: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    for split in ("train", "val", "test"):
        shutil.copytree(split_shapes / split, small / split)
    (row,) = ranked(small, "toy")
    for place in (small / "test", small / "val"):
        for picture in sorted(place.glob("*/*.png"))[::2]:
            picture.unlink()
    (again,) = ranked(small, "toy")
    assert {**again, "seconds": 0} == {**row, "seconds": 0}
    found = advising.advise(small, settings=Settings.of(source="toy", engine="torch"), reporter=Silent())
    assert found["advice"]["images_per_class"] == 10


def test_the_row_is_logme_of_what_a_fit_learns_from(split_shapes: Path) -> None:
    bench = prepare(split_shapes, settings=Settings.of(source="toy", engine="torch"), reporter=Silent(), stop=Stop())
    rows, labels = bench.features("native", "train"), bench.samples("train").labels
    (row,) = ranked(split_shapes, "toy")
    assert row["logme"] == pytest.approx(log_me(rows, labels), abs=1e-6)


def test_a_later_fit_finds_the_features(split_shapes: Path) -> None:
    ranked(split_shapes, "toy")
    run = api.fit(split_shapes, source="toy", strategy="frozen", views=0, engine="torch").run
    assert run["work"]["features_reused"] == 30
    assert run["work"]["features_computed"] == 15 + 24


def test_a_part_of_the_items_holds_every_class_and_is_the_same_each_time(split_shapes: Path) -> None:
    bench = prepare(
        split_shapes, settings=Settings.of(source="toy", engine="torch", seed=3), reporter=Silent(), stop=Stop()
    )
    part = advising.part_of(bench, 9)
    assert [item.label for item in part].count(0) == 3
    assert len(part) == 9
    assert {item.split for item in part} == {"train"}
    assert part == advising.part_of(bench, 9)
    rows = advising.rank_sources(split_shapes, ["toy"], settings=bench.settings, reporter=Silent(), items=9)
    assert (rows[0]["items"], rows[0]["of"]) == (9, 30)


def test_what_cannot_be_used_stands_at_the_end_with_its_reason(split_shapes: Path) -> None:
    rows = ranked(split_shapes, "timm:nothing_of_the_kind", "toy", "toy")
    assert [row["source"] for row in rows] == ["toy", "timm:nothing_of_the_kind"]
    assert "error" in rows[1]
    with pytest.raises(SourceError, match="nothing_of_the_kind"):
        ranked(split_shapes, "timm:nothing_of_the_kind")
    with pytest.raises(DataError):
        ranked(split_shapes / "nowhere", "toy")


def test_a_source_that_takes_no_pictures_is_refused(split_shapes: Path) -> None:
    bench = prepare(split_shapes, settings=Settings.of(source="toy", engine="torch"), reporter=Silent(), stop=Stop())
    deaf = open_source("toy")
    deaf.card = replace(deaf.card, input_size=(1, 32, 32))
    with pytest.raises(SourceError, match="1 channels"):
        advising.rows_of(bench, deaf, advising.part_of(bench, 3))


def test_a_picture_that_one_source_could_not_read_counts_for_none(
    split_shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = advising.rows_of, []

    def torn(*args: Any) -> np.ndarray:
        rows = honest(*args).copy()
        rows[len(calls)] = np.nan
        calls.append(len(rows))
        return rows

    monkeypatch.setattr(advising, "rows_of", torn)
    rows = ranked(split_shapes, "toy", "random:resnet18", image_size=32)
    assert [row["items"] for row in rows] == [28, 28]


def test_the_toy_is_ranked_only_where_nothing_else_is_there(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(other / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(other / "torch"))
    assert advising.local_sources() == ["toy"]
    assert advising.local_sources([other]) == [str(other / "copy")]


def test_the_advice_is_deterministic_and_its_options_are_those_of_fit(split_shapes: Path) -> None:
    found = api.advise(split_shapes, source="toy", engine="torch")
    again = api.advise(split_shapes, source="toy", engine="torch")
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    assert found["source"] == "toy"
    told = found["advice"]
    assert told["size"] == "small"
    assert told["quadrant"] == f"small and {told['similarity']['level']}"
    assert Settings.of(source="toy", **told["options"]).strategy == told["strategy"]
    json.dumps(found)


def test_advice_for_several_sources_is_refused_not_given_for_the_first(split_shapes: Path) -> None:
    with pytest.raises(SettingsError, match="one source"):
        api.advise(split_shapes, source="toy,random:resnet18")


def test_the_random_side_of_the_similarity_does_not_disturb_the_source(split_shapes: Path) -> None:
    bench = prepare(split_shapes, settings=Settings.of(source="toy", engine="torch"), reporter=Silent(), stop=Stop())
    before = bench.source.sha256()
    first = advising.measured_similarity(bench)
    assert bench.source.sha256() == before
    assert advising.measured_similarity(bench) == first
    assert first["pretrained"] == pytest.approx(ranked(split_shapes, "toy")[0]["probe"])


# --- the command line ---------------------------------------------------------------------------------------------


def test_sources_ranks_on_data_and_lists_without(split_shapes: Path, other: Path, capsys: Any) -> None:
    def told(*words: str) -> Any:
        assert cli.run([*words, "--engine", "torch", "--quiet", "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    rows = told("sources", str(split_shapes), str(other), "--source", f"toy, {other / 'copy'}", "--items", "12")
    assert {row["source"] for row in rows} == {"toy", str(other / "copy")}
    assert rows[0]["logme"] == rows[1]["logme"]
    assert rows[0]["items"] == 12
    found = told("sources", str(split_shapes), str(other))
    assert str(other / "copy") in [row["source"] for row in found]
    assert "toy" in [row["address"] for row in told("sources", str(other))]
    assert cli.run(["sources", str(split_shapes), "--source", "toy", "--engine", "torch", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "LogME" in out
    assert f"headstart fit {split_shapes} --source toy" in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["a", "b"], "one data set"),
        (["--source", "toy"], "belongs to data"),
        (["a", "--all", "x*"], "one of the two"),
        (["nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], part: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["sources", *words, "--quiet"]) == 2
    told = capsys.readouterr().err
    assert part in told
    assert len(told.splitlines()) == 1


def test_advise_says_where_why_and_what_next(split_shapes: Path, capsys: Any) -> None:
    assert cli.run(["advise", str(split_shapes), "--source", "toy", "--engine", "torch", "--quiet"]) == 0
    out = capsys.readouterr().out
    for part in ("10 training images a class: small", "similarity", "because", "would change", "headstart compare"):
        assert part in out
    assert cli.run(["advise", str(split_shapes), "--source", "toy", "--engine", "torch", "--quiet", "--json"]) == 0
    assert {*json.loads(capsys.readouterr().out)} == {"data", "source", "seconds", "advice"}
