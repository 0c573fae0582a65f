"""What a run tells beyond its scores: how it was chosen, what would help, and how far it can be trusted."""

from __future__ import annotations

from typing import Any

from headstart.choice.automatic import Outcome
from headstart.stages import Bench, Candidate
from headstart.transfer.budget import Clock

__all__ = ["insights"]


def insights(
    bench: Bench,
    chosen: Candidate,
    *,
    outcome: Outcome | None,
    clock: Clock,  # noqa: ARG001
) -> tuple[Candidate, dict[str, Any]]:
    """The candidate with its probabilities set right, and what run.json says beside the scores."""
    told: dict[str, Any] = dict(outcome.told) if outcome is not None else {}
    told["test_set"] = {
        "n": len(bench.samples("test").items),
        "openings": [{"for": "final score", "after": "the plan was chosen and trained"}],
    }
    if chosen.interpolation is not None:
        told["interpolation"] = chosen.interpolation
    return chosen, told
