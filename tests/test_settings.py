"""Settings: every mistake at once, types, ranges, contradictions, and the same words on the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from headstart._cli_options import settings_of, with_settings
from headstart.errors import SettingsError
from headstart.settings import HEADS, STRATEGIES, Settings, option, seconds_of, sources_of


def message(**options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.of(**options)
    return str(caught.value)


def test_every_mistake_is_listed_at_once() -> None:
    told = message(epochs=0, sede=1, head="linaer", warmup="much", cut="a", train_last=2, test_fraction=0.9)
    for part in ("epochs must be at least 1, got 0", "unknown option 'sede'. Did you mean seed", "head must be one of",
                 "warmup must be of type float, got 'much'", "cut or train_last, not both",
                 "must leave something to train on"):  # fmt: skip
        assert part in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"layer_decay": 0.0}, "layer_decay must be above 0"),
        ({"layer_decay": 1.5}, "at most 1"),
        ({"epochs": 2.0}, "type int"),
        ({"epochs": True}, "type int"),
        ({"hflip": 1}, "type bool"),
        ({"warmup": float("nan")}, "type float"),
        ({"weight_decay": float("inf")}, "type float"),
        ({"momentum": True}, "type float"),
        ({"batch_size": None}, "must not be None"),
        ({"source": ["a"]}, "type str"),
        ({"source": True}, "type str"),
        ({"lr": "fast"}, "positive number or 'find'"),
        ({"lr": 0}, "positive number"),
        ({"lr": "nan"}, "positive number"),
        ({"lr": "inf"}, "positive number"),
        ({"lr": "1e-3", "backbone_lr": 1e-4}, "lr or backbone_lr, not both"),
        ({"lr": "find", "head_lr": 0.0}, "leave head_lr out"),
        ({"strategy": "full", "cut": "layer2"}, "belong to the strategy partial, not to full"),
        ({"strategy": "full", "head": "knn"}, "no gradient"),
        ({"accumulate": 64}, "accumulate cannot be larger"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave something"),
    ],
)
def test_a_wrong_value_is_refused_in_words(options: dict[str, Any], part: str) -> None:
    assert part in message(**options)


def test_values_are_taken_as_the_type_of_their_field() -> None:
    found = Settings.of(lr=0.001, clip=1, epochs=np.int64(3), warmup=np.float32(0.5))
    assert found.lr == "0.001"
    assert (found.clip, found.epochs, found.warmup) == (1.0, 3, 0.5)
    assert [type(v) for v in (found.clip, found.epochs, found.warmup)] == [float, int, float]


def test_the_defaults_are_valid_and_differ_from_themselves_in_nothing() -> None:
    assert Settings.of() == Settings()
    assert Settings().non_default() == {}
    assert Settings().flags() == []
    assert dataclasses.asdict(Settings()).keys() == {f.name for f in dataclasses.fields(Settings)}


def test_changed_settings_are_checked_again() -> None:
    assert Settings().changed(strategy="full").changed(epochs=3).non_default() == {"strategy": "full", "epochs": 3}
    with pytest.raises(SettingsError, match="no gradient"):
        Settings().changed(head="knn").changed(strategy="full")


def parsed(flags: list[str]) -> Settings:
    """The settings that the command line makes of these flags."""
    app, got = typer.Typer(), []

    @app.command()
    @with_settings()
    def verb(**options: Any) -> None:
        got.append(settings_of(options))

    answer = CliRunner().invoke(app, flags)
    assert answer.exit_code == 0, answer.output
    return got[0]


@settings(max_examples=20, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "strategy": st.sampled_from(("auto", *STRATEGIES)),
            "head": st.sampled_from(("auto", *HEADS[:2])),
            "source": st.sampled_from(["toy", "a folder", "-odd", "é"]),
            "epochs": st.integers(1, 99) | st.none(),
            "lr": st.sampled_from(["find", "0.001", "1e-05"]),
            "warmup": st.floats(0, 1),
            "layer_decay": st.floats(0.01, 1),
            "weight_decay": st.floats(0, 1e300),
            "hflip": st.booleans(),
            "vflip": st.booleans(),
            "cache": st.booleans(),
            "workers": st.integers(0, 8) | st.none(),
            "ema": st.floats(0, 1),
        },
    )
)
def test_the_flags_give_the_same_settings_back(options: dict[str, Any]) -> None:
    wanted = Settings.of(**options)
    assert parsed(wanted.flags()) == wanted


def test_every_option_has_help_and_a_panel() -> None:
    for field in dataclasses.fields(Settings):
        assert field.metadata["help"].endswith("."), field.name
        assert field.metadata["panel"] != "Run", field.name
    assert option(1, "Text.").metadata["choices"] == ()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2 min", 120), (7, 7)],
)
def test_a_time_is_read_as_people_write_it(said: str, seconds: float) -> None:
    assert seconds_of(said) == seconds


@pytest.mark.parametrize("said", ["", "soon", "10 weeks", "m", "-5", "5m3h", "0"])
def test_a_budget_that_is_no_time_is_refused(said: str) -> None:
    with pytest.raises(SettingsError, match=r"budget|time"):
        Settings.of(budget=said)


def test_several_sources_are_named_with_commas_and_each_once() -> None:
    assert sources_of("a, b,a,,c") == ("a", "b", "c")
    assert sources_of("timm:resnet18") == ("timm:resnet18",)


def test_weights_of_ones_own_belong_to_one_source() -> None:
    with pytest.raises(SettingsError, match="weights belong to one source"):
        Settings.of(source="a,b", weights="w.pth")
