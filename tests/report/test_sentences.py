"""The plain words of a report: what it claims and when it warns."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.report import sentences, to_markdown

from .example_runs import HOSTILE, full, hostile


def clean_run() -> dict[str, Any]:
    run = full()
    run["data"].update(leaks=[], contradictions=[])
    run["scores"]["test"].update(accuracy=0.967, accuracy_interval=[0.925, 0.986])
    return run


def test_a_clean_run_is_trusted_for_pictures_like_these() -> None:
    answer, reasons = sentences.trust(clean_run())
    assert answer == "Yes, for pictures like these."
    assert any("sealed" in reason for reason in reasons)
    assert any("0.925" in reason and "0.542" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("data", "leaks"), [["a", "b"]], "more than one split"),
        (("data", "contradictions"), [["a", "b"]], "different labels"),
        (("scores", "test", "accuracy_interval"), [0.80, 0.99], "test set is small"),
        (("diagnosis", "verdict"), "overfits", "overfits"),
        (("scores", "test", "calibration_error"), 0.2, "off by 20 percentage points"),
        (("scores", "test", "per_class"), {"ants": {"n": 4}}, "Fewer than ten test images of ants"),
        (("scores", "test", "per_class"), {"ants": {"n": 0}}, "Fewer than ten test images of ants"),
    ],
)
def test_each_doubt_turns_yes_into_with_care(place: tuple[str, ...], value: Any, word: str) -> None:
    run = clean_run()
    target = run
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    answer, reasons = sentences.trust(run)
    assert answer.startswith("With care")
    assert word in reasons[0]


def test_a_model_no_better_than_the_majority_is_not_trusted() -> None:
    run = clean_run()
    run["scores"]["test"].update(accuracy=0.58, accuracy_interval=[0.50, 0.65])
    assert sentences.trust(run)[0].startswith("Not yet: the model is not shown to be better")


def test_a_validation_score_is_not_passed_off_as_a_test_score() -> None:
    run = clean_run()
    del run["scores"]["test"]
    head = sentences.headline(run)
    assert not head.judged
    assert "validation image" in head.figures
    assert sentences.trust(run)[0].startswith("Not yet: there is no sealed test set")
    del run["scores"]["val"]
    assert "it was trained on" in sentences.headline(run).plain


def test_without_scores_there_is_nothing_to_trust() -> None:
    assert sentences.trust({})[0] == "There is nothing to trust yet."


def test_the_title_names_few_classes_and_counts_many() -> None:
    names = [{"data": {"classes": classes}} for classes in ([], ["a"], list("ab"), list("abcdefg"))]
    assert [sentences.headline(run).title for run in names] == [
        "A classifier of images",
        "A classifier of a",
        "A classifier of a and b",
        "A classifier of 7 classes",
    ]


@pytest.mark.parametrize(("points", "bounds"), [(0.277, [0.204, 0.349]), (27.7, [20.4, 34.9])])
def test_the_gain_is_in_percentage_points_whichever_way_it_is_recorded(points: float, bounds: list[float]) -> None:
    for scratch in ({"accuracy": 0.69}, {}):
        run = clean_run()
        run["baselines"]["scratch"] = scratch
        run["gain_over_scratch"] = {"points": points, "interval": bounds}
        found = sentences.gain(run)
        assert found is not None
        assert found.points == pytest.approx(27.7)
        assert found.bounds == pytest.approx((20.4, 34.9))


def test_a_gain_that_may_be_chance_is_called_so() -> None:
    run = clean_run()
    run["baselines"]["scratch"] = {"accuracy": 0.972}
    run["gain_over_scratch"] = {"points": -0.005, "interval": [-0.02, 0.01]}
    said = sentences.gain_words(run)
    assert "0.5 fewer" in said
    assert "may be chance" in said
    run["gain_over_scratch"] = {"points": 0.3}
    assert sentences.gain_words(run).endswith("same data.")


@pytest.mark.parametrize(
    ("error", "word"), [(0.02, "can be read"), (0.08, "rough guide"), (0.3, "no chance to rely on")]
)
def test_the_calibration_error_is_put_in_words(error: float, word: str) -> None:
    assert word in sentences.calibration_words({"calibration_error": error})


def test_the_data_are_put_in_words() -> None:
    run = clean_run()
    assert sentences.data_words(run).startswith(
        "398 images of 2 classes: 185 for training, 60 for choosing and 153 sealed"
    )
    run["data"]["imbalance"] = 4.0
    assert "4 times as many" in sentences.data_words(run)
    assert sentences.data_words({"data": {"classes": ["a"]}}) == "1 class."
    assert "5 images: 5 not yet split." in sentences.data_words({"data": {"splits": {"": {"n": 5}}}})


def test_each_strategy_has_its_words_and_an_unknown_one_its_name() -> None:
    for strategy, words in sentences.STRATEGY_WORDS.items():
        assert sentences.done_words({"plan": {"strategy": strategy}}) == f"{words}."
    assert sentences.done_words({"plan": {"strategy": "new"}}) == "The strategy was new."
    run = {"plan": {"strategy": "frozen", "trained_parameters": 1026}, "source": {"parameters": 11_689_512}}
    assert "1,026 numbers were trained, against 11,689,512 in the network (0.0088 %)." in sentences.done_words(run)


def test_markdown_says_the_same_as_the_page() -> None:
    said = to_markdown(full())
    for words in (
        "# A classifier of ants and bees",
        "sealed test images right",
        "| accuracy |",
        "| ants |",
        "| partial |",
        "the loss became NaN",
        "timm:resnet18",
        "Few images a class",
    ):
        assert words in said, words
    assert to_markdown({}).startswith("# A classifier of images\n")


def test_markdown_tables_have_the_same_number_of_cells_in_every_row() -> None:
    for run in (full(), hostile()):
        for block in to_markdown(run).split("\n\n"):
            if block.startswith("|"):
                cells = {line.replace("\\|", "").count("|") for line in block.splitlines()}
                assert len(cells) == 1


def test_markdown_lets_no_hostile_name_become_a_tag_or_a_line() -> None:
    said = to_markdown(hostile())
    said.encode("utf-8")
    assert "<script" not in said.replace("\\<", "")
    assert HOSTILE[2] not in said
