"""The chosen candidate is the simplest that no other beats beyond chance, and the reason is told in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.judge.choosing import RULE, Choice, Entry, choose
from headstart.judge.intervals import mcnemar

Answers = npt.NDArray[np.bool_]


def answers(n: int, *wrong: int) -> Answers:
    right = np.ones(n, dtype=bool)
    right[list(wrong)] = False
    return right


def entry(label: str, correct: Answers, cost: float, *, judged: Sequence[int] | None = None, worse: float = 0) -> Entry:
    loss = np.where(correct, 0.1, 2.0) + worse
    if judged is not None:
        loss[np.setdiff1d(np.arange(len(loss)), judged)] = np.nan
    return Entry(label, correct, loss, cost)


def test_within_chance_the_simplest_wins_and_the_sentence_says_what_the_best_costs() -> None:
    simple, full = answers(244, *range(10)), answers(244, *range(4, 12))
    found = choose(
        [entry("full", full, 2_226_434), entry("frozen linear on mobilenetv2_100", simple, 2_562)], noun="pictures"
    )
    assert (found.best, found.chosen, found.unbeaten) == (0, 1, (True, True))
    assert found.p == (1.0, pytest.approx(mcnemar(full, simple)))
    assert found.sentence == (
        "frozen linear on mobilenetv2_100 wins: full is 0.8 points better on 244 held-out pictures (p = 0.69), "
        "which is within chance, and costs 2.2 million trained parameters instead of 2,562."
    )


def test_a_clear_winner_is_chosen_though_it_costs_more() -> None:
    simple, full = answers(100, *range(20)), answers(100, *range(4))
    entries = [entry("frozen", simple, 10), entry("full", full, 1000)]
    found = choose(entries)
    assert (found.best, found.chosen, found.unbeaten) == (1, 1, (False, True))
    assert found.sentence == (
        "full wins: it is 16.0 points better than frozen, the simplest, on 100 held-out pictures (p < 0.001), "
        "which is more than chance."
    )
    assert found.as_dict(entries) == {
        "sentence": found.sentence,
        "rule": RULE,
        "best": "full",
        "chosen": "full",
        "p": None,
    }


def test_between_the_two_the_simpler_of_the_good_ones_wins() -> None:
    entries = [
        entry("frozen", answers(200, *range(40)), 10),
        entry("full", answers(200, *range(5)), 1000),
        entry("partial", answers(200, *range(6)), 100),
    ]
    found = choose(entries)
    assert (found.best, found.chosen) == (1, 2)
    assert found.as_dict(entries)["p"] == 1.0
    assert "full is 0.5 points better" in found.sentence
    assert "it is 17.0 points better than frozen, the simplest" in found.sentence


def test_equal_accuracy_and_cost_are_told_apart_by_log_loss_then_seconds_then_order() -> None:
    right = answers(50, 1, 2)
    vague, sharp = entry("vague", right, 5, worse=0.2), entry("sharp", right, 5)
    assert choose([vague, sharp]).chosen == 1
    slow, quick = (Entry(label, right, sharp.loss, 5, seconds) for label, seconds in (("slow", 9.0), ("quick", 2.0)))
    assert choose([slow, quick]).chosen == 1
    assert choose([sharp, sharp]).chosen == 0


def test_a_less_simple_best_of_the_same_size_is_told_without_sizes() -> None:
    right = answers(50, 1, 2)
    simple = Entry("logistic", right, entry("", right, 0).loss, 0.0, size=900.0)
    other = Entry("ridge", answers(50, 1), entry("", answers(50, 1), 0).loss, 0.25, size=900.0)
    found = choose([simple, other])
    assert (found.best, found.chosen) == (1, 0)
    assert found.sentence.endswith("which is within chance, and is less simple.")


def test_a_candidate_judged_on_easy_items_alone_gains_nothing_by_them() -> None:
    hard = answers(120, *range(60, 90))  # items below 60 are easy: both know them all
    probe, easy = entry("probe", hard, 1), entry("full", answers(120, 0, 1), 1000, judged=range(60))
    found = choose([easy, probe])
    assert (found.best, found.chosen) == (1, 1)
    assert "none is more accurate" in found.sentence


def test_an_entry_with_little_evidence_is_not_preferred_for_its_simplicity() -> None:
    full, narrow = answers(200, *range(10)), answers(200, 0, 20, 21)
    entries = [entry("small", narrow, 1, judged=range(20, 30)), entry("full", full, 1000)]
    found = choose(entries)
    assert found.chosen == 1
    assert "small is simpler, but was judged on 10 of the held-out pictures only" in found.sentence


def test_a_lucky_narrow_best_hides_no_better_wide_one() -> None:
    """The narrow one leads on twelve items; the wide one has beaten the simplest on two hundred."""
    probe, wide = answers(200, *range(0, 200, 5)), answers(200, *range(0, 200, 25))
    lucky = answers(200)
    entries = [entry("probe", probe, 1), entry("wide", wide, 100), entry("lucky", lucky, 500, judged=range(0, 60, 5))]
    found = choose(entries)
    assert (found.best, found.chosen) == (2, 1)


def test_entries_without_common_items_are_never_chosen() -> None:
    right = answers(40, 3)
    entries = [entry("wide", right, 10, judged=range(30)), entry("apart", right, 1, judged=range(30, 40))]
    found = choose(entries)
    assert (found.best, found.chosen, found.p, found.unbeaten) == (0, 0, (1.0, 1.0), (True, False))
    assert "only candidate that can be judged: 96.7 % of 30" in found.sentence


def test_one_infinite_loss_is_a_bad_answer_and_no_missing_one() -> None:
    right = answers(10)
    worst = Entry("worst", right, np.full(10, np.inf), 1.0)
    found = choose([worst, entry("fair", right, 1.0)])
    assert found.chosen == 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        choose([])
    with pytest.raises(ValueError, match="same items"):
        choose([entry("a", answers(3), 1), entry("b", answers(4), 1)])
    with pytest.raises(ValueError, match="judged on any"):
        choose([entry("a", answers(3), 1, judged=[])])
    with pytest.raises(ValueError, match="keep"):
        choose([entry("a", answers(3), 1)], keep=1.0)


@st.composite
def candidates(draw: st.DrawFn) -> list[Entry]:
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, k = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    found = []
    for i in range(k):
        correct, loss = generator.random(n) < generator.uniform(0.3, 1), generator.exponential(size=n)
        loss[generator.random(n) < draw(st.sampled_from([0.0, 0.5]))] = np.nan
        found.append(Entry(f"c{i}", correct, loss, float(generator.integers(1, 4)), float(i)))
    return found if any(np.isfinite(e.loss).any() for e in found) else [entry("one", answers(3), 1)]


@settings(max_examples=60, deadline=None)
@given(candidates(), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_and_is_not_clearly_worse_than_the_best(entries, random) -> None:
    found = choose(entries)
    order = list(range(len(entries)))
    random.shuffle(order)
    again: Choice = choose([entries[i] for i in order])
    assert entries[order[again.chosen]].label == entries[found.chosen].label
    assert again.sentence == found.sentence
    best, chosen = entries[found.best], entries[found.chosen]
    common = ~np.isnan(best.loss) & ~np.isnan(chosen.loss)
    assert found.p[found.chosen] == pytest.approx(mcnemar(best.correct[common], chosen.correct[common]))
    assert found.p[found.best] == 1.0
    assert chosen.cost <= best.cost or not found.unbeaten[found.best]
