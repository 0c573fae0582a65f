"""Runners: the fastest engine that gives torch's rows; whatever is wrong with one, torch is there."""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import headstart
from headstart import files
from headstart.data import cache
from headstart.data.augment import normalise
from headstart.errors import DataError, MissingExtraError, SettingsError
from headstart.records import Card
from headstart.transfer import _runner_onnx as onnx
from headstart.transfer import _runner_trial as trial
from headstart.transfer import runner
from headstart.transfer._runner_torch import folded
from headstart.transfer.runner import Runner, RunnerChoice, pick_runner, reopen_runner

torch.set_num_threads(1)
CARD = Card("small", input_size=(3, 16, 16))
BATCH = 12
ENGINES = ("openvino", "onnxruntime")
PLENTY = 10**9  # items left, so many that every engine is worth a trial


class Small(nn.Module):
    """A network with norms to fold; counts its passes by the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.passes: list[int] = []
        generator = torch.Generator().manual_seed(0)
        for values in self.state_dict().values():
            if values.is_floating_point():
                values.copy_(torch.rand(values.shape, generator=generator) + 0.1)

    def __deepcopy__(self, memo: Any) -> Small:
        twin = type(self)()
        twin.load_state_dict(self.state_dict())
        twin.passes = self.passes
        return twin.train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to rows (n, 6)."""
        self.passes.append(len(images))
        return self.last(torch.relu(self.norm(self.conv(images)))).mean((2, 3))


@pytest.fixture
def small() -> Small:
    return Small().eval()


@pytest.fixture(autouse=True)
def _slow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the choice of the tests is not this machine's: an engine that works wins."""
    monkeypatch.setattr(trial, "FASTER", 1e9)


def pictures(n: int = BATCH, seed: int = 0, card: Card = CARD) -> Tensor:
    return torch.randint(
        0, 256, (n, *card.input_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def rows_of(module: nn.Module, images: Tensor, card: Card = CARD) -> np.ndarray:
    with torch.no_grad():
        rows: np.ndarray = module(normalise(images, card)).numpy()
    return rows


def pick(module: nn.Module, *, left: int = PLENTY, images: Tensor | None = None, **choice: Any) -> Runner:
    return pick_runner(module, CARD, images=pictures() if images is None else images, left=left,
                       how=RunnerChoice(**choice))  # fmt: skip


def reopen(module: nn.Module, identity: str, **choice: Any) -> Runner | None:
    return reopen_runner(module, CARD, identity=identity, images=pictures(), how=RunnerChoice(**choice))


# --- every engine gives torch's rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_every_engine_gives_the_rows_of_the_module_for_any_number_of_images(small: Small, engine: str) -> None:
    chosen = pick(small, engine=engine)
    assert (chosen.name, chosen.precision, chosen.facts["note"]) == (engine, "fp32", "")
    for n in (1, 8, BATCH, BATCH + 5):
        images = pictures(n, seed=n)
        rows = chosen(images)
        assert rows.shape == (n, 6)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, rows_of(small, images), rtol=1e-5)


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_a_row_depends_on_its_own_image_alone(small: Small, engine: str) -> None:
    chosen, images = pick(small, engine=engine), pictures()
    rows = chosen(images)
    others = images.clone()
    others[1:] = 255 - others[1:]
    np.testing.assert_array_equal(chosen(others)[0], rows[0])
    np.testing.assert_array_equal(chosen(images[:3])[:3], rows[:3])
    rows_again = chosen(images)
    np.testing.assert_array_equal(rows_again, rows)  # and earlier answers are not overwritten by later ones
    assert rows_again is not rows


def test_the_module_is_left_as_it_is(small: Small) -> None:
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    chosen = pick(small, engine="torch")
    np.testing.assert_allclose(chosen(pictures()), rows_of(small.eval(), pictures()), rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert isinstance(small.norm, nn.BatchNorm2d)


def test_a_runner_can_be_made_and_used_in_inference_mode(small: Small) -> None:
    with torch.inference_mode():
        images = pictures()
        for engine in ("torch", *ENGINES):
            np.testing.assert_allclose(pick(small, engine=engine)(images), rows_of(small, images), rtol=1e-5)


# --- what a trial costs -----------------------------------------------------------------------------------------------


def test_where_one_batch_is_left_no_image_is_tried(small: Small) -> None:
    chosen = pick(small, left=BATCH)
    assert small.passes == []
    assert chosen.identity == f"torch-{trial._version()}/fp32"


def test_where_little_is_left_torch_is_taken_after_a_look_at_a_few_images(small: Small) -> None:
    chosen = pick(small, left=BATCH + 1)
    assert small.passes == [trial.FEW]
    assert chosen.name == "torch"
    assert chosen.facts["export_seconds"] is None
    assert chosen.facts["images_per_second"].keys() == {"torch, first look"}


def test_a_whole_trial_takes_a_look_an_export_and_the_folding(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FOLDING", float("inf"))
    pick(small)
    look, exported, one, *turns = small.passes
    assert look == exported == trial.FEW
    assert one == 1  # the image that shows which norms fold
    assert turns == [trial.FEW] * len(turns)
    assert len(turns) <= 5  # the folded copy is compared and timed


@pytest.mark.parametrize("fold", [True, False])
def test_torch_computes_as_before_after_an_export(small: Small, monkeypatch: pytest.MonkeyPatch, fold: bool) -> None:
    monkeypatch.setattr(runner, "FOLDING", float("inf"))
    monkeypatch.setattr(runner, "choose", lambda found: found[-1])
    if not fold:
        monkeypatch.setattr(trial, "folded", lambda *_: None)
    chosen = pick(small)
    assert chosen.name == "torch"
    assert (trial.FOLDED in chosen.identity) == fold
    np.testing.assert_allclose(chosen(pictures()), rows_of(small, pictures()), rtol=1e-5)


def test_nothing_is_folded_where_an_engine_is_far_ahead(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FOLDING", 0.0)
    assert "torch, folded" not in pick(small).facts["images_per_second"]
    assert small.passes == [trial.FEW, trial.FEW]


def test_the_second_engine_is_left_out_where_the_first_needs_little(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "WORTH", 0.0)
    chosen = pick(small, left=BATCH + 1)
    assert chosen.name == "openvino"
    assert "onnxruntime" not in chosen.facts["images_per_second"]
    assert "needs less than" in chosen.facts["refused"]["onnxruntime"]


# --- the choice -------------------------------------------------------------------------------------------------------


def candidate(name: str, rate: float) -> trial.Candidate:
    return trial.Candidate(name, "1.0", "fp32", lambda images: np.zeros((len(images), 1)), 8, rate=rate)


@given(rates=st.lists(st.floats(1, 1e6), min_size=1, max_size=4), noise=st.floats(0.94, 1.06), at=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_within_the_margin_of_the_best(rates: list[float], noise: float, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "FASTER", 1.15)
        found = trial.choose([candidate(str(i), rate) for i, rate in enumerate(rates)])
        assert found.rate * 1.15 ** (len(rates) - 1) >= max(rates)
        equal = [candidate(str(i), 100 * (noise if i == at else 1)) for i in range(4)]
        assert trial.choose(equal).name == "0"


def test_a_later_engine_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "FASTER", 1.15)
    for second, name in ((110, "a"), (116, "b"), (90, "a")):
        assert trial.choose([candidate("a", 100), candidate("b", second)]).name == name


@pytest.mark.parametrize(("torch_rate", "name"), [(3.0, "openvino"), (0.5, "torch")])
def test_the_clock_decides_between_the_engines(
    small: Small, monkeypatch: pytest.MonkeyPatch, torch_rate: float, name: str
) -> None:
    """OpenVINO takes one second a batch on a clock of our own, torch so many."""
    now = [0.0]
    take: dict[Callable[[Tensor], np.ndarray], float] = {}

    def timed(compute: Callable[[Tensor], np.ndarray], images: Tensor) -> tuple[np.ndarray, float]:
        return compute(images), len(images) / take.get(compute, torch_rate)

    opened = onnx.ENGINES["openvino"]

    def open_it(*given: Any, **more: Any) -> Callable[[Tensor], np.ndarray]:
        compute = opened(*given, **more)
        take[compute] = 1.0
        return compute

    monkeypatch.setattr(trial, "FASTER", 1.15)
    monkeypatch.setattr(trial, "_timed", timed)
    monkeypatch.setattr(trial, "_clock", lambda: now[0])
    monkeypatch.setattr(onnx, "ENGINES", {"openvino": open_it})
    assert pick(small).name == name


# --- what can be wrong with an engine ---------------------------------------------------------------------------------


def broken(kind: str) -> Callable[..., Any]:
    """An engine that cannot be opened, fails at work, or gives wrong rows."""

    def open_it(data: bytes, *, threads: int, precision: str) -> Callable[[Tensor], np.ndarray]:
        if kind == "opening":
            raise OSError("no such\nlibrary")

        def compute(images: Tensor) -> np.ndarray:
            if kind == "working":
                raise ValueError("out of luck")
            rows = onnxruntime(images)
            rows[3] *= {"rows": 1.001, "nan": np.nan}.get(kind, 1.0)
            return rows[:, :-1] if kind == "shape" else rows

        onnxruntime = onnx._onnxruntime(data, threads=threads, precision=precision)
        return compute

    return open_it


@pytest.mark.parametrize(
    ("kind", "said"),
    [("opening", "no such library"), ("working", "out of luck"), ("rows", "rows differ from torch's by"),
     ("nan", "by nan of the largest"), ("shape", "by inf of the largest")],
)  # fmt: skip
def test_a_broken_engine_is_passed_over_with_its_reason(
    small: Small, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    monkeypatch.setattr(onnx, "ENGINES", {"openvino": broken(kind), "onnxruntime": onnx._onnxruntime})
    chosen = pick(small)
    assert chosen.name == "onnxruntime"
    assert said in chosen.facts["refused"]["openvino"]
    assert said in chosen.facts["note"]
    np.testing.assert_allclose(chosen(pictures()), rows_of(small, pictures()), rtol=1e-5)
    with pytest.raises(SettingsError, match="openvino cannot compute this source") as caught:
        pick(small, engine="openvino")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_broken_engine_of_these_tests_works_where_nothing_is_broken(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "ENGINES", {"openvino": broken("nothing")})
    assert pick(small).name == "openvino"


def test_a_stop_from_outside_is_no_failure_of_an_engine(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx, "export", stopped)
    with pytest.raises(KeyboardInterrupt):
        pick(small)


def test_a_failing_export_is_tried_once_and_torch_goes_on(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def failing(*_: Any) -> bytes:
        tried.append(1)
        raise RuntimeError("cannot be written as ONNX")

    monkeypatch.setattr(onnx, "export", failing)
    chosen = pick(small)
    assert chosen.name == "torch"
    assert tried == [1]
    assert "cannot be written as ONNX" in chosen.facts["note"]
    assert chosen.facts["note"].count("cannot be written") == 1
    assert chosen.facts["refused"]["onnxruntime"] == "cannot be written as ONNX"


def test_where_the_older_exporter_is_gone_the_other_one_serves(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx as library

    older, asked = torch.onnx.export, []

    def newer(model: nn.Module, args: Any, *, input_names: list[str], output_names: list[str]) -> Any:
        file = io.BytesIO()
        older(model, args, file, dynamo=False, input_names=input_names, output_names=output_names)  # type: ignore[arg-type]
        asked.append(1)
        return SimpleNamespace(model_proto=library.load_model_from_string(file.getvalue()))

    monkeypatch.setattr(torch.onnx, "export", newer)
    chosen = pick(small, engine="onnxruntime")
    np.testing.assert_allclose(chosen(pictures()), rows_of(small, pictures()), rtol=1e-5)
    assert asked == [1]


class Unexportable(Small):
    """A network with an operator that ONNX does not have."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to rows (n, 6)."""
        rows = super().forward(images)
        return rows + nn.functional.adaptive_avg_pool2d(rows.reshape(-1, 1, 2, 3), (5, 4)).mean((2, 3))


def test_a_failing_export_says_nothing_on_the_output_and_warns_of_nothing(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    chosen = pick(Unexportable().eval())
    print("still there")
    os.write(1, b"and here")
    assert chosen.name == "torch"
    assert "adaptive_avg_pool2d" in chosen.facts["note"]
    assert capfd.readouterr().out.split("\n")[:1] in (["still there"], ["and herestill there"])
    assert not recwarn.list


@pytest.mark.parametrize(("limit", "told"), [(0.0, True), (float("inf"), False)])
def test_an_engine_that_is_not_installed_is_named_to_the_user_only_where_it_would_save_much(
    small: Small, monkeypatch: pytest.MonkeyPatch, limit: float, told: bool
) -> None:
    monkeypatch.setattr(onnx, "missing", lambda engine: engine)
    monkeypatch.setattr(trial, "ADVISED", limit)
    chosen = pick(small)
    assert chosen.name == "torch"
    assert chosen.facts["refused"]["openvino"] == "openvino is not installed"
    assert ("openvino or onnxruntime: pip install 'headstart[fast]'" in chosen.facts["note"]) is told
    assert bool(chosen.facts["note"]) is told


@pytest.mark.parametrize(("engine", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_an_engine_asked_for_that_is_not_installed_names_its_extra(
    small: Small, monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    monkeypatch.setattr(onnx, "missing", lambda engine: engine)
    with pytest.raises(MissingExtraError, match=rf"needs the package {engine}.*headstart\[{extra}\]"):
        pick(small, engine=engine)
    assert small.passes == []


@pytest.mark.parametrize("choice", [{"device": "cuda", "engine": "openvino"},
                                    {"precision": "bf16", "engine": "onnxruntime"}])  # fmt: skip
def test_what_an_engine_cannot_do_is_refused(small: Small, choice: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        pick(small, **choice)


def test_values_that_are_not_finite_are_left_to_torch(small: Small) -> None:
    with torch.no_grad():
        small.last.bias[0] = torch.nan
    assert "not finite" in pick(small).facts["reason"]


# --- folding ----------------------------------------------------------------------------------------------------------


def test_folding_takes_the_norm_away_and_keeps_the_rows(small: Small) -> None:
    example = normalise(pictures(1), CARD)
    twin = folded(small, example)
    assert twin is not None
    assert isinstance(twin.get_submodule("norm"), nn.Identity)
    np.testing.assert_allclose(rows_of(twin, pictures()), rows_of(small, pictures()), rtol=1e-5)


class Reading(Small):
    """Reads what the convolution gives a second time."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to rows (n, 6)."""
        between = self.conv(images)
        return self.last(torch.relu(self.norm(between)) + between).mean((2, 3))


class Twice(Small):
    """Runs the same convolution twice."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to rows (n, 6)."""
        return self.last(self.norm(self.conv(images)) + torch.relu(self.conv(-images))).mean((2, 3))


class Ahead(Small):
    """The norm comes before the convolution that it could be folded into."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to rows (n, 6)."""
        return self.last(self.norm(torch.relu(self.conv(images)))).mean((2, 3))


@pytest.mark.parametrize("kind", [Reading, Twice, Ahead])
def test_a_norm_whose_input_serves_for_more_is_not_folded(kind: type[Small]) -> None:
    assert folded(kind().eval(), normalise(pictures(1), CARD)) is None


class Peeking(Small):
    """Looks at its norm, which is gone after folding."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to rows (n, 6)."""
        return super().forward(images) * self.norm.num_features


def test_a_network_that_misses_its_norm_stays_as_it_is() -> None:
    module = Peeking().eval()
    chosen = pick(module, engine="torch")
    assert chosen.identity == f"torch-{trial._version()}/fp32"
    assert "num_features" in chosen.facts["note"]
    np.testing.assert_allclose(chosen(pictures()), rows_of(module, pictures()), rtol=1e-5)


# --- kept exports -----------------------------------------------------------------------------------------------------


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every export."""
    made: list[int] = []
    export = onnx.export

    def counting(*given: Any) -> bytes:
        made.append(1)
        return export(*given)

    monkeypatch.setattr(onnx, "export", counting)
    return made


def kept_files() -> list[Path]:
    return sorted((files.home() / "engines").rglob("*.onnx"))


def test_an_export_is_kept_and_used_again_until_it_is_damaged(small: Small, exports: list[int]) -> None:
    rows = pick(small, key="k", engine="openvino")(pictures())
    pick(small, key="k", engine="onnxruntime")
    assert exports == [1]
    (path,) = kept_files()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = pick(small, key="k", engine="openvino")
    assert exports == [1, 1]
    np.testing.assert_array_equal(again(pictures()), rows)
    (path,) = kept_files()
    path.write_bytes(path.read_bytes()[:-5])
    pick(small, key="k", engine="openvino")
    pick(small, key="k", engine="openvino")
    assert exports == [1, 1, 1]


def test_an_export_is_kept_for_its_key_and_its_images_only(small: Small, exports: list[int]) -> None:
    pick(small, key="k", engine="openvino")
    pick(small, key="other", engine="openvino")
    pick(small, key="k", engine="openvino", images=pictures(3))
    assert len(exports) == 3
    pick(small, engine="openvino")
    assert len(exports) == 4  # without a key nothing is kept
    assert len(kept_files()) == 3


def test_a_kept_export_of_another_network_is_found_out(small: Small) -> None:
    pick(small, key="k", engine="openvino")
    with torch.no_grad():
        small.last.weight[0] *= 1.01
    chosen = pick(small, key="k")
    assert chosen.name == "torch"
    assert "rows differ" in chosen.facts["note"]


def test_no_export_is_kept_where_nothing_may_be(small: Small, exports: list[int]) -> None:
    for _ in range(2):
        assert pick(small, key="k", engine="openvino", bound=0).name == "openvino"
    assert len(exports) == 2
    assert kept_files() == []


def test_a_kept_export_is_one_that_the_cache_counts_and_marks_as_used(small: Small) -> None:
    pick(small, key="k", engine="openvino")
    (path,) = kept_files()
    os.utime(path, (1, 1))
    pick(small, key="k", engine="openvino")
    (entry,) = cache.entries("engines")
    assert entry.bytes == path.stat().st_size
    assert entry.used > 1


def test_where_nothing_can_be_kept_the_engine_works_all_the_same(small: Small) -> None:
    files.write_text(files.home() / "engines", "a file where the folder should be")
    chosen = pick(small, key="k", engine="openvino")
    np.testing.assert_allclose(chosen(pictures()), rows_of(small, pictures()), rtol=1e-5)


# --- the same engine again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_the_same_engine_comes_back_with_the_same_bits_and_without_a_trial(
    small: Small, exports: list[int], engine: str
) -> None:
    first = pick(small, key="k", engine=engine)
    small.passes.clear()
    again = reopen(small, first.identity, key="k")
    assert again is not None
    assert again.identity == first.identity
    assert sum(small.passes) <= BATCH + 3  # two images to compare with, one to fold by, one batch
    assert len(exports) == (engine != "torch")
    np.testing.assert_array_equal(again(pictures()), first(pictures()))


def test_plain_torch_comes_back_without_a_pass(small: Small) -> None:
    again = reopen(small, pick(small, left=1).identity)
    assert again is not None
    assert again.name == "torch"
    assert small.passes == []


def test_another_version_precision_or_engine_does_not_come_back(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = pick(small, engine="openvino").identity
    for other in (
        "openvino-1.0/fp32", identity.replace("fp32", "bf16"), "torch-1.0/fp32", "torch-1.0-folded1/fp32",
        f"torch-{trial._version()}-folded0/fp32", "nobody-1.0/fp32", "", "/fp32",
    ):  # fmt: skip
        assert reopen(small, other) is None, other
    assert reopen(small, identity, engine="onnxruntime") is None
    assert reopen(small, identity, engine="torch") is None
    assert reopen(small, identity, device="cuda") is None
    assert reopen(small, identity, engine="openvino") is not None
    monkeypatch.setattr(onnx, "missing", lambda engine: engine)
    assert reopen(small, identity) is None


def test_an_engine_that_does_not_agree_any_more_does_not_come_back(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = pick(small, engine="onnxruntime").identity
    monkeypatch.setattr(trial, "TOLERANCE", {"fp32": -1.0})
    assert reopen(small, identity) is None


# --- what is recorded -------------------------------------------------------------------------------------------------


def test_the_facts_are_plain_and_whole(small: Small) -> None:
    facts = pick(small).facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["engine"] == "openvino"
    assert {"openvino", "onnxruntime", "torch, first look"} <= facts["images_per_second"].keys()
    assert 0 < facts["max_relative_difference"] < facts["tolerance"] == 1e-4
    assert facts["export_seconds"] >= 0
    assert facts["trial_seconds"] >= facts["export_seconds"]
    assert facts["left"] == PLENTY


def test_an_identity_names_engine_version_and_number_format(small: Small) -> None:
    assert pick(small, engine="torch").identity == f"torch-{trial._version()}-{trial.FOLDED}/fp32"
    import openvino

    assert pick(small, engine="openvino").identity.startswith("openvino-20")
    assert openvino.__version__.startswith(pick(small, engine="openvino").identity[9:].split("/")[0])


# --- bf16, asked for --------------------------------------------------------------------------------------------------


def test_bf16_is_coarser_than_fp32_and_says_so(small: Small) -> None:
    chosen = pick(small, precision="bf16", engine="torch")
    off = trial.difference(chosen(pictures()), rows_of(small, pictures()))
    assert 1e-5 < off < 0.05
    assert chosen.identity.endswith("/bf16")
    assert chosen.facts["tolerance"] == trial.TOLERANCE["bf16"]


def test_openvino_computes_in_bf16_or_is_passed_over(small: Small) -> None:
    chosen = pick(small, precision="bf16")
    assert chosen.precision == "bf16"
    assert chosen.name == "openvino" or "bf16" in chosen.facts["refused"]["openvino"]
    assert chosen.facts["refused"]["onnxruntime"] == "it does not compute in bf16"


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "error"), [({"engine": "openvino"}, MissingExtraError), ({}, DataError)])
def test_a_run_asks_for_its_engine_before_it_looks_at_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception]
) -> None:
    monkeypatch.setattr(onnx, "missing", lambda engine: engine)
    with pytest.raises(error):
        headstart.fit(tmp_path / "nowhere", tmp_path / "run", source="toy", device="cpu", **options)


@pytest.mark.skipif(sys.platform != "linux", reason="signals have a stack of their own on Linux only")
def test_an_engine_leaves_the_stack_of_signals_alone(small: Small) -> None:
    """OpenVINO gives the thread one that is too small where the processor has AMX: Ctrl-C ended in a crash."""

    def stack() -> tuple[Any, ...]:
        found = onnx._SignalStack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
        return found.at, found.flags, found.size

    before = stack()
    for engine in ENGINES:
        pick(small, engine=engine)(pictures())
    assert stack() == before
