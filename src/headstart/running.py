"""A run from its data to its folder: prepare, hold the folder, train, judge, write.

What is written when decides what `resume` can take up: see `runfolder`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import runfolder
from headstart.errors import DataError, Interrupted
from headstart.progress import Reporter, Silent
from headstart.records import SCHEMA
from headstart.settings import Settings, of_strategy

if TYPE_CHECKING:
    from headstart.records import Plan
    from headstart.ship.model import Model
    from headstart.stages import Bench, Candidate
    from headstart.transfer.budget import Clock
    from headstart.transfer.interrupt import Stop

__all__ = ["Job", "RunResult", "carry_out"]

_STAGES = ("source", "audit", "features", "train", "judge")


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: its folder (None when nothing was written), run.json as a dict, and the Model."""

    folder: Path | None
    run: dict[str, Any]
    model: Model


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: one strategy (fit) or several (compare), anew or going on."""

    verb: str
    data: Any
    settings: Settings
    strategies: tuple[str, ...] = ()
    going_on: bool = False
    begun: dict[str, Any] | None = None  # what a run that goes on was begun with

    @property
    def started(self) -> dict[str, Any]:
        """settings.json: what `resume` needs to know."""
        path = str(self.data) if isinstance(self.data, (str, Path)) else None
        return {
            "schema": SCHEMA, "verb": self.verb, "data": path, "directory": str(Path.cwd()),
            "strategies": self.strategies, "settings": asdict(self.settings),
        }  # fmt: skip


def carry_out(job: Job, out: str | Path | None, *, reporter: Reporter | None, overwrite: bool = False) -> RunResult:
    """Prepare, open the run folder, train, judge, write."""
    from headstart.sources._importing import uncollected

    with uncollected():
        from headstart import record as recording
        from headstart.choice.automatic import clock_for, is_automatic
        from headstart.stages import prepare
        from headstart.transfer.interrupt import listening
        from headstart.transfer.memory import enough

    folder = Path(out).expanduser() if out is not None else None
    if folder is not None and not job.going_on:
        runfolder.check(folder, overwrite=overwrite, data=job.data)
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    automatic = is_automatic(job.settings, verb=job.verb, alone=alone)
    clock = clock_for(job.settings, automatic=automatic)
    held = False
    with enough(), listening() as stop:
        try:
            bench = prepare(job.data, settings=job.settings, reporter=reporter or Silent(), stop=stop)
            begun = recording.begun(bench, job.begun, where=folder)
            plans = [] if automatic else _plans(bench, job)
            _check_room(bench, plans, folder=folder)
            with (
                runfolder.hold(
                    folder if bench.main else None, job.started | {"begun": begun}, overwrite=overwrite,
                    going_on=job.going_on,
                ),
                enough(),
            ):  # within, so that what was begun is taken away again # fmt: skip
                held = True
                return _train_and_write(job, bench, plans, folder=folder, clock=clock)
        except (KeyboardInterrupt, Interrupted) as error:
            raise _interrupted(error, stop, job, folder, held=held) from None


def _interrupted(error: BaseException, stop: Stop, job: Job, folder: Path | None, *, held: bool) -> Interrupted:
    """The error to raise, with the command that goes on where there is one."""
    import shlex

    code = stop.code or (error.exit_code if isinstance(error, Interrupted) else 130)
    if folder is None or not (job.going_on or runfolder.stands(folder, job.started)):
        return Interrupted(code, "the same call again")
    if not held and (folder / "run.json").is_file():  # a finished run that was to be overwritten
        return Interrupted(code, "the same call again")
    return Interrupted(code, f"headstart resume {shlex.quote(str(folder))}")


def _plans(bench: Bench, job: Job) -> list[tuple[Plan, Settings]]:
    """A Plan for each candidate, with the settings that made it; raises what cannot work while nothing is written."""
    from headstart.stages import make_plan

    wanted = [job.settings]
    if job.strategies:
        wanted = [of_strategy(job.settings, name) for name in job.strategies]
    if _trains_scratch(job):
        wanted.append(of_strategy(job.settings, "scratch"))
    plans = [(make_plan(bench, own), own) for own in wanted]
    if any(plan.epochs for plan, _ in plans) and not bench.samples("val").items:
        raise DataError(
            "there is nothing to choose the epoch on: the training set is too small to hold back a validation part",
            where=bench.dataset.path,
            remedy="Add images, or use --strategy frozen without --scratch.",
        )
    return plans


def _check_room(bench: Bench, plans: list[tuple[Plan, Settings]], *, folder: Path | None) -> None:
    """Raise OutputError where model and checkpoints would find no room: before the first step, not at the last."""
    from headstart.stages import room

    if folder is not None and bench.main:
        runfolder.check_room(folder, room(bench, [plan for plan, _ in plans]))


def _trains_scratch(job: Job) -> bool:
    """Whether the baseline from random weights is asked for and not raced or trained anyway."""
    own = job.strategies or (job.settings.strategy,)
    return job.settings.scratch is True and "scratch" not in own


def _train_and_write(
    job: Job, bench: Bench, plans: list[tuple[Plan, Settings]], *, folder: Path | None, clock: Clock
) -> RunResult:
    """Train all plans, choose, judge, and write run.json last. Without plans the race makes one."""
    from headstart import record as recording
    from headstart.choice.automatic import baseline_plan, decide
    from headstart.insight import insights
    from headstart.stages import aligned, answered, train_candidate

    outcome, extra = None, None
    if not plans:
        outcome = decide(bench, clock, folder=folder)
        bench = outcome.bench
        plans = [(outcome.plan(), outcome.settings)]
        _check_room(bench, plans, folder=folder)
    elif _trains_scratch(job):
        *plans, extra = plans
    with clock.keeping(outcome.for_scratch if outcome else 0.0), bench.stop.until(clock.deadline()):
        raced = [train_candidate(bench, plan, settings=own, folder=_place(job, folder, plan)) for plan, own in plans]
    if outcome is not None:
        extra = baseline_plan(bench, outcome, clock)
    baseline = None
    if extra is not None:
        own_place = folder / "scratch" if folder is not None else None
        with bench.stop.until(clock.deadline()):
            baseline = train_candidate(bench, extra[0], settings=extra[1], folder=own_place)
    with bench.timed("judge"):
        raced = [aligned(bench, candidate) for candidate in raced]
        place, race = _choose(bench, raced) if job.verb == "compare" else (0, [])
        chosen, own = answered(bench, raced[place]), plans[place][1]
        if baseline is None and len(raced) > 1:
            baseline = next((c for c in raced if c.plan.strategy == "scratch"), None)
        baseline = aligned(bench, baseline) if baseline is not None else None
        chosen, told = insights(bench, chosen, settings=own, outcome=outcome, clock=clock)
        command = recording.command(job.verb, bench, job.strategies)
        written = recording.run_record(bench, chosen, baseline=baseline, race=race, command=command) | told
    seconds = {**dict.fromkeys(_STAGES, 0.0), **bench.seconds, "total": clock.used}
    written["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    written["work"]["processor"] = {"seconds": round(clock.processor, 2), "whole": not job.going_on}
    if folder is not None and bench.main:
        with bench.reporter.stage("Writing the report"):
            model = recording.write_run(folder, bench, chosen, written)
    else:
        model = recording.build_model(bench, chosen, written)
    return RunResult(folder, written, model)


def _place(job: Job, folder: Path | None, plan: Plan) -> Path | None:
    """Where a candidate keeps its checkpoints."""
    return folder / "strategies" / plan.strategy if job.verb == "compare" and folder is not None else folder


def _choose(bench: Bench, candidates: list[Candidate]) -> tuple[int, list[dict[str, Any]]]:
    """The place of the candidate with the best validation accuracy; of equals the one with fewer trained parameters.

    Accuracies are those on the items that all candidates could read.
    """
    from headstart.record import race_rows, right_answers

    shares = [float(right.mean()) if len(right) else 0.0 for right in right_answers(bench, candidates, "val")]
    ranks = [(-share, one.trained_parameters) for share, one in zip(shares, candidates, strict=True)]
    place = ranks.index(min(ranks))
    return place, race_rows(bench, candidates, candidates[place])
