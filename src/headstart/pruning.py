"""prune: a smaller network out of a finished run, beside the run's own, which stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import __version__, files
from headstart.errors import Interrupted, OutputError, RunError, SettingsError, did_you_mean
from headstart.progress import Reporter, Silent
from headstart.records import SCHEMA, plain

if TYPE_CHECKING:
    from headstart.finetune import Candidate
    from headstart.ship.model import Model
    from headstart.shrinking import Aim, Point
    from headstart.stages import Bench
    from headstart.transfer.interrupt import Stop

__all__ = ["CURVE", "prune"]

CURVE = "curve.json"
"""What was measured on the way, beside the pruned model; written last."""

_OURS = {
    "config.json", "model.safetensors", "head.safetensors", "reject.safetensors", "learned.safetensors",
    "statistics.safetensors", "headstart.json", "README.md", CURVE, "exports",
}  # fmt: skip
_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "speedup": (lambda value: 1 < value <= 64, "above 1 and at most 64"),
    "parameters": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "max_drop": (lambda value: 0 <= value <= 100, "0 to 100 points"),
    "features": (lambda value: 0 < value < 1, "above 0 and below 1"),
}


def prune(
    run: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
    **aims: float | None,
) -> dict[str, Any]:
    """Cut channels out of a run's network and train what is left after the whole one; write it as a model of its own.

    Args:
        run: The folder of a run, or of a model in it.
        data: Where the run's data are now; None takes the path that the run remembers.
        out: The folder to write; None takes RUN/pruned/NAME.
        epochs: Epochs of training after the last cut; None: from the number of pictures.
        image_size: The side of the pictures that the smaller network takes, in pixels; None: what loses least where
            multiply-adds are to be saved, else what the whole network takes.
        seed: Decides everything random.
        reporter: Who is told where the work is; None tells nobody.
        **aims: One of `speedup` (so many times fewer multiply-adds), `parameters` (the share to keep), `max_drop`
            (points of accuracy that may be lost on the validation items: the smallest network that loses no more) and
            `features` (the share of the frozen features to keep; the rest of the network stays and nothing is trained).

    Returns what curve.json holds, and the `folder`. Raises
    SettingsError for an aim that is none or cannot be reached, MissingExtraError without torch-pruning, RunError and
    DataError when the run or its data cannot be used.
    """
    aim = _aim(aims)
    if image_size is not None and (image_size < 1 or aim.kind == "features"):
        raise SettingsError(
            f"--image-size must be at least 1 pixel, got {image_size}" if image_size < 1 else
            "--features leaves the network's pictures as they are", remedy="Leave --image-size out."
        )  # fmt: skip
    from headstart.ship.prune import need_torch_pruning

    need_torch_pruning()
    from headstart import sealed
    from headstart.ship.model import find_model_folder
    from headstart.transfer.interrupt import listening
    from headstart.transfer.memory import enough

    place, home, told = find_model_folder(run), sealed.run_of(run), reporter or Silent()
    if (home / sealed.EXTENDED).is_file():
        raise RunError(
            "an extended model has no run to prune by", where=run, remedy="Prune the run, then extend what comes of it."
        )
    target = Path(out).expanduser() if out is not None else home / "pruned" / aim.name
    _check_target(target, place)
    with enough(), listening() as stop:
        try:
            work = _Work(place, home, data=data, seed=seed, reporter=told, stop=stop)
            return work.carry_out(aim, target, epochs=epochs, image_size=image_size)
        except (KeyboardInterrupt, Interrupted) as error:
            code = stop.code or (error.exit_code if isinstance(error, Interrupted) else 130)
            raise Interrupted(code, "the same call again") from None


def _aim(given: Mapping[str, float | None]) -> Aim:
    """The one aim that was given. Raises SettingsError for none, several, an unknown one, or one out of range."""
    from headstart.shrinking import Aim

    wanted = {name: value for name, value in given.items() if value is not None}
    if unknown := [name for name in wanted if name not in _RANGES]:
        raise SettingsError(f"unknown aim {unknown[0]!r}", remedy=did_you_mean(unknown[0], list(_RANGES)))
    if len(wanted) != 1:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in _RANGES)
        raise SettingsError(f"give one of {flags}", remedy="For example: headstart prune RUN --speedup 2")
    ((name, value),) = wanted.items()
    fine, words = _RANGES[name]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not fine(number):
        raise SettingsError(f"--{name.replace('_', '-')} must be {words}, got {value}")
    return Aim(name, number)


def _check_target(target: Path, place: Path) -> None:
    """Raise OutputError where the folder cannot be written, holds something else, or is the model to prune."""
    from headstart import runfolder

    if target.resolve() == place.resolve():
        raise OutputError("the model itself stands there", where=target, remedy="Choose another --out.")
    if target.exists():
        others = runfolder.content(target) - _OURS if target.is_dir() else {target.name}
        if others:
            raise OutputError(
                f"something else stands there: {min(others)}", where=target, remedy="Choose another --out."
            )
    files.check_writable(target)


class _Work:
    """One call of `prune`: the model, its data as the run split them, and what comes of both."""

    def __init__(
        self, place: Path, home: Path, *, data: str | Path | None, seed: int, reporter: Reporter, stop: Stop
    ) -> None:
        from headstart import runfolder, sealed
        from headstart.ship.model import load
        from headstart.stages import prepare

        self.place, self.home, self.reporter = place, home, reporter
        self.record = runfolder.read(home / "run.json")
        self.model = load(place)
        found = sealed.read_sealed(home, data)
        settings = _settings(self.record, place)
        bench = prepare(found.dataset, settings=settings, reporter=reporter, stop=stop)
        names = {item.name for item in found.items} if found.held_out else set[str]()
        bench.dataset = bench.dataset.with_items(
            tuple(replace(item, split=_split(item.split, item.name in names)) for item in bench.dataset.items)
        )
        bench.settings = settings.changed(seed=seed)
        self.bench: Bench = bench

    def carry_out(self, aim: Aim, target: Path, *, epochs: int | None, image_size: int | None) -> dict[str, Any]:
        """Shrink, judge once on the test set, write."""
        from headstart.selecting import select
        from headstart.shrinking import shrink, timed

        bench, reporter, fixed = self.bench, self.reporter, self.record["plan"].get("chosen") or {}
        if aim.kind == "features":
            points = select(bench, self.model, aim, chosen=fixed)
        else:
            points = shrink(bench, self.model, aim, epochs=epochs, image_size=image_size, chosen=fixed)
        place = _chosen(points, aim)
        with reporter.stage("Measuring how fast they are"):
            for point, took in zip(points, timed([point.net for point in points]), strict=True):
                point.told["latency"] = took
        with reporter.stage("Judging the chosen one"):
            candidate = self._candidate(points[place])
            model, calibrated = self._model(candidate)
            test = self._test(model)
        told: dict[str, Any] = plain(
            {
                "schema": SCHEMA, "headstart": __version__, "aim": {aim.kind: aim.value},
                "seed": bench.settings.seed, "chosen": place, "validation": {"n": len(points[0].right)},
                "points": [point.told for point in points], "test": test, **calibrated,
            }
        )  # fmt: skip
        of = {name: value for name, value in told["points"][place].items() if name != "latency"}  # never twice the same
        model.facts["pruned"] = {"aim": told["aim"], **of}
        model.facts["scores"] = {"test": test["scores"] if test else None}
        model.save(target, readme=_readme(self.home.name, told))
        told["model"] = {
            "sha256": files.read_json(target / "headstart.json")["sha256"],
            "of": files.read_json(self.place / "headstart.json")["sha256"],
            "bytes": _size(target), "bytes_before": _size(self.place),
        }  # fmt: skip
        files.write_json(target / CURVE, told)
        _tell(self.home)
        return {"folder": str(target), **told}

    def _candidate(self, point: Point) -> Candidate:
        """The network as a run would have made it: of frozen features the head is fitted by the run's own rules."""
        from headstart.shrinking import tuned_candidate
        from headstart.stages import train_candidate

        plan = self.model.plan
        if plan.strategy != "frozen":
            return tuned_candidate(self.bench, point.net, plan)
        bench = self.bench.with_source(point.net.source)
        return train_candidate(bench, plan, settings=bench.settings, folder=None)

    def _model(self, candidate: Candidate) -> tuple[Model, dict[str, Any]]:
        """The Model, its temperature and reject option fitted anew."""
        import numpy as np

        from headstart import record as recording
        from headstart.outlook import out_of_fold
        from headstart.trusting import made_trustworthy

        bench = self.bench.with_source(candidate.net.source)
        seen = out_of_fold(bench, candidate, bench.settings) if candidate.plan.strategy == "frozen" else None
        if bench.judged_split != "test":  # nothing is measured then: there are no items that nobody has seen
            rows = np.concatenate([candidate.logits[name] for name in ("train", "val")])
            candidate = replace(candidate, logits={**candidate.logits, "cross_validation": rows})
        candidate, told = made_trustworthy(bench, candidate, seen, bench.settings)
        told = told if bench.judged_split == "test" else {}
        facts = {"source": self.record["source"], "scores": {"test": None}}
        return recording.build_model(bench, candidate, facts), told

    def _test(self, model: Model) -> dict[str, Any] | None:
        """Both models on the sealed test items, looked at once; None where there are none."""
        from headstart.judge import scoring
        from headstart.judge.calibration import softmax
        from headstart.judge.intervals import paired_bootstrap

        items = self.bench.samples("test")
        if not len(items.items):
            return None
        both, device = (self.model, model), self.bench.device
        before, after = (one.to(device).answers(items.items) for one in both)
        for one in both:
            one.to("cpu")
        right = [found.logits.argmax(1) == items.labels for found in (before, after)]
        change = paired_bootstrap(right[1], right[0], seed=self.bench.settings.seed)
        whole, scores = (
            scoring.score(items.labels, softmax(found.logits), classes=model.classes) for found in (before, after)
        )
        return {
            "n": len(items.items), "whole": {"accuracy": whole.accuracy, "accuracy_interval": whole.accuracy_interval},
            "change_points": 100 * change.value, "change_interval": [100 * change.low, 100 * change.high],
            "scores": scores,
        }  # fmt: skip


def _tell(home: Path) -> None:
    """Put the pruned models of a run into its report, where it has one."""
    from headstart.report.page import with_section
    from headstart.report.pruned import pruned_section

    page = home / "report.html"
    if not page.is_file():
        return
    curves = [(file.parent.name, files.read_json(file)) for file in sorted((home / "pruned").glob(f"*/{CURVE}"))]
    text = page.read_text(encoding="utf-8")
    files.write_text(page, with_section(text, "pruned", "Pruned models", pruned_section(curves)))


def _settings(record: Mapping[str, Any], place: Path) -> Any:
    """The run's settings, with its model for a source."""
    from headstart.settings import Settings

    known = {name: value for name, value in record["settings"].items() if name in Settings.__dataclass_fields__}
    return Settings.of(**known).changed(
        source=str(place), weights=None, image_size=None, strategy="auto", cut=None, train_last=None, head="auto",
        group=None, foreign=None, budget=None, scratch=None, cache=False, engine="torch", lr=None, backbone_lr=None,
        head_lr=None, interpolate=False, repeats=1,
    )  # fmt: skip


def _split(split: str, judged: bool) -> str:
    """The split of an item: "test" for those that the run was judged on, and for no other."""
    return "test" if judged else "train" if split == "test" else split


def _chosen(points: Sequence[Point], aim: Aim) -> int:
    """Which point is saved: the last, or with max_drop the smallest that loses no more."""
    if aim.kind != "max_drop":
        return len(points) - 1
    return max(n for n, point in enumerate(points) if -point.told["change_points"] <= aim.value + 1e-9)


def _size(place: Path) -> int:
    return sum((place / name).stat().st_size for name in ("model.safetensors", "head.safetensors"))


def _readme(name: str, told: Mapping[str, Any]) -> str:
    """The model card."""
    point, whole = told["points"][told["chosen"]], told["points"][0]
    lines = [
        f"# {name}, pruned",
        "",
        f"{point['macs'] / 1e6:,.1f} million multiply-adds an image instead of {whole['macs'] / 1e6:,.1f} "
        f"({point['speedup']:.2f} times fewer), {point['parameters']:,} parameters instead of {whole['parameters']:,}.",
    ]
    if point["image_size"] != whole["image_size"]:
        lines.append(
            "It takes pictures of {} x {} pixels, not {} x {}.".format(*point["image_size"], *whole["image_size"])
        )
    if test := told["test"]:
        low, high = test["change_interval"]
        lines.append(
            f"On {test['n']} test images {test['scores']['accuracy']:.1%} are right, {test['whole']['accuracy']:.1%} "
            f"with the whole network (change {test['change_points']:+.1f} points, {low:+.1f} to {high:+.1f})."
        )
    lines += [
        "",
        "headstart opens this folder as any model of its own. timm cannot: the layers are narrower than its "
        "architecture has them. For other programs there is `headstart export`.",
        "",
    ]
    return "\n".join(lines)
