"""Choose among candidates judged on the same items: the simplest that no other beats beyond chance. NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RULE", "Choice", "Entry", "choose"]

Array = npt.NDArray[Any]

RULE = "the simplest candidate that no other beats beyond chance on the held-out items that both were judged on"
"""The rule of `choose` in words."""

_KEEP = 0.9
_WORST = 34.5  # nats: a probability of 1e-15 for the true class, as in judge.scoring


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate with its answers on held-out items.

    `correct` [items] says which answers are right, `loss` [items] is the log loss in nats, NaN for an item that it was
    not judged on; `cost` orders by simplicity (trained parameters, or any order), `seconds` is what it took. `size` is
    what the sentence says of its cost, where that is another number.
    """

    label: str
    correct: Array
    loss: Array
    cost: float
    seconds: float = 0.0
    size: float | None = None

    @property
    def told(self) -> float:
        """The cost that people are told."""
        return self.cost if self.size is None else self.size


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen: places among the entries, p of each against the best, and the reason in one sentence.

    `p` is McNemar's exact two-sided value on the items that both were judged on, 1.0 for the best itself; `unbeaten`
    says which entries no other beats beyond chance.
    """

    best: int
    chosen: int
    p: tuple[float, ...]
    unbeaten: tuple[bool, ...]
    sentence: str

    def as_dict(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """The choice as run.json keeps it; `p` is that of the chosen against the best, None where they are one."""
        return {
            "sentence": self.sentence,
            "rule": RULE,
            "best": entries[self.best].label,
            "chosen": entries[self.chosen].label,
            "p": self.p[self.chosen] if self.chosen != self.best else None,
        }


def choose(
    entries: Sequence[Entry], *, keep: float = _KEEP, noun: str = "pictures", unit: str = "trained parameters"
) -> Choice:
    """Choose the simplest entry that no other beats beyond chance.

    Every two entries are compared on the items that both were judged on. The reference is the entry with the most
    items (then the simplest); the best is the one whose accuracy exceeds the reference's most on their common items
    (ties: log loss there, more items, simpler), so that a candidate judged on easy items alone gains nothing by them.
    One entry beats another when McNemar's one-sided mid-p is below (1 - keep) / (entries - 1): where all are equally
    good, the simplest is kept with a chance of about `keep` or more (Bonferroni's bound). Chosen is the simplest
    unbeaten entry (ties: log loss, seconds, order). An entry with fewer items than the best is not preferred to it:
    little evidence is no evidence of being as good. One with no item in common with the reference is never chosen.

    This is the one-standard-error rule of Breiman et al. 1984 ("Classification and regression trees", section 3.4.3)
    with a paired test in place of the standard error, which for two entries is about keep = 0.84 and keeps the
    simplest ever less often as entries are added. Mid-p: Fagerland, Lydersen and Laake 2013, "The McNemar test for
    binary matched-pairs data".
    `noun` and `unit` name the items and the cost in the sentence.
    Raises ValueError without entries, without judged items, for arrays of unequal length, and for `keep` not in (0, 1).
    """
    if not 0.0 < keep < 1.0:
        raise ValueError(f"keep must lie between 0 and 1, got {keep}")
    correct, loss = _tables(entries)
    counts = (~np.isnan(loss)).sum(axis=1)
    reference = min(range(len(entries)), key=lambda i: (-counts[i], entries[i].cost, entries[i].label))
    gain, excess = _against(reference, correct, loss)
    duels = _duels(correct, ~np.isnan(loss), limit=(1.0 - keep) / max(1, len(entries) - 1))
    usable = np.flatnonzero(duels.common[reference]).tolist()
    best = min(usable, key=lambda i: (-gain[i], excess[i], -counts[i], entries[i].cost, i))
    unbeaten = [i for i in usable if not duels.beats[usable, i].any()]
    allowed = [i for i in unbeaten if counts[i] >= counts[best]] or [best]
    chosen = min(allowed, key=lambda i: (entries[i].cost, excess[i], entries[i].seconds, i))
    told = _told(entries, duels, best=best, chosen=chosen, usable=usable, noun=noun, unit=unit)
    return Choice(best, chosen, tuple(duels.p[best].tolist()), tuple(i in unbeaten for i in range(len(entries))), told)


def _tables(entries: Sequence[Entry]) -> tuple[Array, Array]:
    """Right answers and losses [entries, items], checked; losses are bounded so that one item cannot decide alone."""
    if not entries:
        raise ValueError("there is nothing to choose from")
    sizes = {np.asarray(array).shape for entry in entries for array in (entry.correct, entry.loss)}
    if len(sizes) > 1 or len(next(iter(sizes))) != 1:
        raise ValueError(f"all entries need one row of the same items, got shapes {sorted(sizes)}")
    correct = np.stack([np.asarray(entry.correct).astype(bool) for entry in entries])
    loss = np.minimum(np.stack([np.asarray(entry.loss, dtype=float) for entry in entries]), _WORST)
    if np.isnan(loss).all():
        raise ValueError("no entry was judged on any item")
    return correct, loss


def _against(reference: int, correct: Array, loss: Array) -> tuple[Array, Array]:
    """Accuracy and log loss of every entry less the reference's, on their common items; 0 without any."""
    common = ~np.isnan(loss) & ~np.isnan(loss[reference])
    n = np.maximum(common.sum(axis=1), 1)
    gain = np.where(common, correct.astype(float) - correct[reference], 0.0).sum(axis=1) / n
    excess = np.where(common, loss - loss[reference], 0.0).sum(axis=1) / n
    return gain, excess


@dataclass(frozen=True, slots=True)
class _Duels:
    """Every two entries compared.

    `wins[i, j]` items that i alone got right, of `common[i, j]` that both were judged on; McNemar's exact two-sided
    `p`; and whether i `beats` j.
    """

    wins: Array
    common: Array
    p: Array
    beats: Array

    def points(self, i: int, j: int) -> float:
        """How many percentage points i is more accurate than j on their common items."""
        return 100.0 * float(self.wins[i, j] - self.wins[j, i]) / max(1.0, float(self.common[i, j]))


def _duels(correct: Array, judged: Array, *, limit: float) -> _Duels:
    """Compare every two entries; i beats j where its one-sided mid-p is below `limit`."""
    from scipy.special import bdtr, gammaln

    # a product of floats is quick and exact: counts stay far below 2^53
    wins = np.rint((judged & correct).astype(float) @ (judged & ~correct).T.astype(float)).astype(np.int64)
    less, total = np.minimum(wins, wins.T), wins + wins.T
    tail = bdtr(less, total, 0.5)
    at = np.exp(gammaln(total + 1.0) - gammaln(less + 1.0) - gammaln(total - less + 1.0) - total * np.log(2.0))
    common = np.rint(judged.astype(float) @ judged.T.astype(float)).astype(np.int64)
    return _Duels(wins, common, np.minimum(1.0, 2.0 * tail), (wins > wins.T) & (tail - at / 2.0 < limit))


def _told(
    entries: Sequence[Entry],
    duels: _Duels,
    *,
    best: int,
    chosen: int,
    usable: Sequence[int],
    noun: str,
    unit: str,
) -> str:
    """The reason in words for somebody who never trained a network."""
    name, n = entries[chosen].label, int(duels.common[chosen, chosen])
    right = f"{100 * np.mean(entries[chosen].correct[~np.isnan(entries[chosen].loss)]):.1f} % of {n} held-out {noun}"
    if len(usable) == 1:
        return f"{name} is the only candidate that can be judged: {right} are right."
    simpler = [i for i in usable if entries[i].cost < entries[chosen].cost]
    if chosen == best and not simpler:
        return f"{name} wins: none is more accurate and none is simpler; {right} are right."
    reasons = []
    if chosen != best:
        dearer = entries[best].cost > entries[chosen].cost
        costs = f"costs {_number(entries[best].told)} {unit} instead of {_number(entries[chosen].told)}"
        end = f", and {costs if entries[best].told != entries[chosen].told else 'is less simple'}" if dearer else ""
        reasons.append(_compared(entries, duels, best, chosen, noun) + end)
    if simpler:
        reasons.append(
            _rejected(entries, duels, min(simpler, key=lambda i: (entries[i].cost, entries[i].label)), chosen, noun)
        )
    return f"{name} wins: {'; '.join(reasons)}."


def _compared(entries: Sequence[Entry], duels: _Duels, best: int, chosen: int, noun: str) -> str:
    """The best against the chosen one that is preferred to it."""
    label, n, points = entries[best].label, int(duels.common[best, chosen]), duels.points(best, chosen)
    if not n:
        return f"{label} was judged on other {noun} alone"
    if points == 0:
        return f"{label} is no more accurate on {n} held-out {noun}"
    word = "better" if points > 0 else "worse"
    chance = _p(duels.p[best, chosen])
    return f"{label} is {abs(points):.1f} points {word} on {n} held-out {noun} ({chance}), which is within chance"


def _rejected(entries: Sequence[Entry], duels: _Duels, simple: int, chosen: int, noun: str) -> str:
    """Why the simplest was not chosen."""
    label, n = entries[simple].label, int(duels.common[simple, chosen])
    if not duels.beats[:, simple].any():
        return f"{label} is simpler, but was judged on {n} of the held-out {noun} only"
    winners = np.flatnonzero(duels.beats[:, simple]).tolist()
    winner = chosen if chosen in winners else min(winners, key=lambda i: (duels.p[i, simple], entries[i].label))
    p, n = float(duels.p[winner, simple]), int(duels.common[winner, simple])
    sure = "more than chance" if p < 0.05 else "probably more than chance"
    figures = f"{duels.points(winner, simple):.1f} points better than {label}, the simplest, on {n} held-out {noun}"
    return f"{'it' if winner == chosen else entries[winner].label} is {figures} ({_p(p)}), which is {sure}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2f}" if p >= 0.095 else f"p = {p:.3f}"


def _number(value: float) -> str:
    return f"{value / 1e6:.1f} million" if value >= 1e6 else f"{value:,.0f}"
