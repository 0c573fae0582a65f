"""The cases of speed.py: what is run on both sides, and what becomes of it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness import Row, factor_row
from lab import Lab, Side, both, seconds_of, share

__all__ = ["CASES", "Case"]

NETWORK = "mobilenetv2_100.google_qat_in1k"
BATCH = 32


@dataclass(frozen=True)
class Case:
    """A case: `rounds` unless told otherwise, `minutes` about on two cores."""

    title: str
    run: Callable[[Lab], list[Row]]
    rounds: int
    minutes: float


def frozen_limit(found: dict[str, Any], sides: list[Side]) -> str:
    """Every row decoded once and computed at the matrix product's rate, on the same cores one after the other."""
    rows = sides[0].record["work"]["features_computed"]
    limit = rows / found["decode"] + rows / found["forward_limit"]["fp32"]
    return f"{rows:,} rows decoded and multiplied in fp32: {limit:.1f} s, {share(limit, seconds_of(sides))}"


def note_where(lab: Lab, sides: list[Side]) -> None:
    """Where the seconds of our last process went, by its own record."""
    record = sides[-1].record
    where = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record["seconds"].items() if name != "total")
    engine = record["work"].get("engine") or {}
    said = f" Rows below the cut: {engine['identity']}." if "identity" in engine else ""
    lab.note(f"Our seconds in the last round, by run.json: {where}; the rest is start-up.{said}")


# --- frozen -----------------------------------------------------------------------------------------------------


def frozen_cifar10(lab: Lab) -> list[Row]:
    """10,000 training images at 96 px, five epochs, against the frozen tutorial loop."""
    data, source = lab.data("cifar10", "--train", 10_000, "--val", 2_000), lab.source(NETWORK)
    size, epochs = lab.size(96), lab.epochs(5)
    limits = lab.limits(data, source, size)
    words = {"size": size, "epochs": epochs, "batch": BATCH}
    found = lab.in_turn({
        "ours": lambda: lab.ours(data, source, "--strategy", "frozen", "--image-size", size),
        "tutorial": lambda: lab.peer("tutorial", data, source, mode="frozen", **words),
    })  # fmt: skip
    ours, theirs = found["ours"], found["tutorial"]
    note_where(lab, ours)
    return [
        factor_row(
            f"frozen, CIFAR-10, 10,000 + 2,000 images at {size} px, whole process", f"frozen loop, {epochs} epochs",
            "s", seconds_of(ours), seconds_of(theirs), wanted=(10, 30), limit=frozen_limit(limits, ours),
            **both(ours, theirs),
        )
    ]  # fmt: skip


def frozen_hymenoptera(lab: Lab) -> list[Row]:
    """The whole process with audit and report, against all peers."""
    data, source = lab.data("hymenoptera"), lab.source(NETWORK)
    size, epochs = lab.size(224), lab.epochs(5)
    limits = lab.limits(data, source, size)
    words = {"size": size, "epochs": epochs, "batch": BATCH}
    found = lab.in_turn(
        {
            "ours": lambda: lab.ours(data, source, "--strategy", "frozen", "--image-size", size),
            "tutorial": lambda: lab.peer("tutorial", data, source, mode="frozen", **words),
            "sklearn": lambda: lab.peer("sklearn_probe", data, source, **words),
            "hf": lambda: lab.peer("hf_trainer", data, source, mode="frozen", **words),
            "fastai": lambda: lab.peer("fastai_fine_tune", data, source, **words),
        },
        once=("hf", "fastai"),
    )
    ours = found["ours"]
    note_where(lab, ours)
    titles = {
        "tutorial": f"frozen loop, {epochs} epochs",
        "sklearn": "one pass + scikit-learn",
        "hf": f"Hugging Face Trainer, frozen, {epochs} epochs",
        "fastai": f"fastai fine_tune, {epochs} epochs",
    }
    return [
        factor_row(
            f"frozen, hymenoptera at {size} px, whole process", title, "s",
            seconds_of(ours), seconds_of(found[name]), wanted=(5, 8) if name == "tutorial" else None,
            limit=frozen_limit(limits, ours) if name == "tutorial" else "", **both(ours, found[name]),
        )
        for name, title in titles.items()
    ]  # fmt: skip


def frozen_sklearn(lab: Lab) -> list[Row]:
    """5,000 training images against one pass and scikit-learn."""
    data, source = lab.data("cifar10", "--train", 5_000, "--val", 1_000), lab.source(NETWORK)
    size = lab.size(96)
    limits = lab.limits(data, source, size)
    found = lab.in_turn({
        "ours": lambda: lab.ours(data, source, "--strategy", "frozen", "--image-size", size),
        "sklearn": lambda: lab.peer("sklearn_probe", data, source, size=size, batch=BATCH),
    })  # fmt: skip
    ours, theirs = found["ours"], found["sklearn"]
    note_where(lab, ours)
    return [
        factor_row(
            f"frozen, CIFAR-10, 5,000 + 1,000 images at {size} px, whole process", "one pass + scikit-learn", "s",
            seconds_of(ours), seconds_of(theirs), wanted=(2, 5), limit=frozen_limit(limits, ours), **both(ours, theirs),
        )
    ]  # fmt: skip


def warm(lab: Lab) -> list[Row]:
    """A second fit on the same data with other heads, in the same HEADSTART_HOME, on small and on usual pictures."""
    data, source = lab.data("cifar10", "--train", 5_000, "--val", 1_000), lab.source(NETWORK)
    return [row for size in (96, 224) for row in warm_at(lab, data, source, lab.size(size))]


def warm_at(lab: Lab, data: Any, source: Any, size: int) -> list[Row]:
    """The rows of one size of pictures."""
    flags = ("--strategy", "frozen", "--image-size", size)
    first: list[Side] = []
    second: dict[str, list[Side]] = {"ridge": [], "svm": []}
    for _ in range(lab.rounds):
        home = lab.fresh_home()
        first.append(lab.ours(data, source, *flags, home=home))
        for head, sides in second.items():
            sides.append(lab.ours(data, source, *flags, "--head", head, home=home))
            computed = sides[-1].record["work"]["features_computed"]
            if computed:
                lab.note(f"The warm run with the head {head} computed {computed} rows: it should compute none.")
    for head in second:
        note_where(lab, second[head])
    return [
        factor_row(
            f"second fit, head {head}, same 6,000 images at {size} px, whole process", "first fit, head linear", "s",
            seconds_of(sides), seconds_of(first), wanted=(5, 20), **both(sides, first),
        )
        for head, sides in second.items()
    ]  # fmt: skip


# --- above a cut ------------------------------------------------------------------------------------------------


def beside_tutorial(lab: Lab, data: Any, source: Any, flags: Any, **words: Any) -> tuple[list[Side], list[Side]]:
    """Ours with `flags` and the plain loop in `words["mode"]`, in turn; the same size, epochs and batch."""
    shared = ("--image-size", words["size"], "--epochs", words["epochs"], "--batch-size", BATCH)
    found = lab.in_turn({
        "ours": lambda: lab.ours(data, source, *flags, *shared),
        "tutorial": lambda: lab.peer("tutorial", data, source, batch=BATCH, **words),
    })  # fmt: skip
    return found["ours"], found["tutorial"]


def ours_per_epoch(side: Side) -> float:
    """Median seconds of training in an epoch, by the run's own log; judging the epoch is not in it."""
    return statistics.median(row["seconds"] for _, row in side.outcome.lines if row["epoch"] > 0)


def theirs_per_epoch(side: Side) -> float:
    """The same of a peer."""
    return statistics.median(row["train_seconds"] for row in side.record["epochs"])


def partial(lab: Lab) -> list[Row]:
    """The last two blocks, against the same freeze in plain PyTorch."""
    data, source = lab.data("hymenoptera", "--three"), lab.source(NETWORK)
    size, epochs = lab.size(224), lab.epochs(5)
    limits = lab.limits(data, source, size)
    names = ",".join(limits["last_two"])
    flags = ("--strategy", "partial", "--train-last", 2, "--patience", epochs)
    words = {"size": size, "epochs": epochs, "mode": "partial", "trained": names}
    ours, theirs = beside_tutorial(lab, data, source, flags, **words)
    note_where(lab, ours)
    images = theirs[0].record["images"]
    limit = images * 6 * limits["macs_last_two"] / (limits["gflops"]["fp32"] * 1e9)
    steps = [ours_per_epoch(side) for side in ours]
    title = f"partial, last two blocks, hymenoptera at {size} px"
    return [
        factor_row(
            f"{title}, training in one epoch", "same freeze, plain loop", "s", steps,
            [theirs_per_epoch(side) for side in theirs], wanted=(4, 10),
            limit=f"matrix product fp32 of the two blocks: {limit:.2f} s, {share(limit, steps)}", **both(ours, theirs),
        ),
        factor_row(
            f"{title}, whole process, {epochs} epochs", "same freeze, plain loop", "s",
            seconds_of(ours), seconds_of(theirs), **both(ours, theirs),
        ),
    ]  # fmt: skip


def full(lab: Lab) -> list[Row]:
    """All layers: images a second of training, against the plain eager loop."""
    data, source = lab.data("hymenoptera", "--three"), lab.source(NETWORK)
    size, epochs = lab.size(224), lab.epochs(3)
    limits = lab.limits(data, source, size)
    flags = ("--strategy", "full", "--patience", epochs)
    ours, theirs = beside_tutorial(lab, data, source, flags, size=size, epochs=epochs, mode="full")
    note_where(lab, ours)
    images = theirs[0].record["images"]
    rates = [images / ours_per_epoch(side) for side in ours]
    most = {name: rate * 1e9 / (6 * limits["macs"]) for name, rate in limits["gflops"].items()}
    shares = ", ".join(
        f"{name} {rate:,.0f} images/s, {100 * statistics.median(rates) / rate:.0f} %" for name, rate in most.items()
    )
    title = f"full, hymenoptera at {size} px"
    return [
        factor_row(
            f"{title}, training", "plain eager loop", "images/s", rates,
            [images / theirs_per_epoch(side) for side in theirs], wanted=(2, 3), limit=f"matrix product {shares}",
            **both(ours, theirs),
        ),
        factor_row(
            f"{title}, whole process, {epochs} epochs", "plain eager loop", "s",
            seconds_of(ours), seconds_of(theirs), **both(ours, theirs),
        ),
    ]  # fmt: skip


def best_accuracy(lab: Lab) -> list[Row]:
    """When ours first has the best validation accuracy that the plain loop ever reaches, on the same pictures."""
    data, source = lab.data("rsscn7", "--three"), lab.source(NETWORK)
    size, epochs = lab.size(128), lab.epochs(10)
    rows = []
    for mode in ("full", "discriminative"):
        flags = ("--strategy", mode)
        ours, theirs = beside_tutorial(lab, data, source, flags, size=size, epochs=epochs, mode=mode)
        goal = max(side.record["accuracy"] for side in theirs)
        when = [first_time(side, goal) for side in ours]
        needed = [
            next(row["when"] - side.outcome.started for row in side.record["epochs"] if row["accuracy"] >= best)
            for side, best in ((side, side.record["accuracy"]) for side in theirs)
        ]
        title = f"{mode}, RSSCN7 at {size} px: until a validation accuracy of {goal:.3f}"
        against = f"plain loop, best of {epochs} epochs"
        reached = [value for value in when if value is not None]
        if len(reached) < len(ours):
            row = Row(title, against, "s", reached, needed, got=f"reached in {len(reached)} of {len(ours)} rounds")
            row.wanted, row.reached = "4x (10x)", False
            row.accuracy, row.memory = both(ours, theirs)["accuracy"], both(ours, theirs)["memory"]
        else:
            row = factor_row(title, against, "s", reached, needed, wanted=(4, 10), **both(ours, theirs))
        rows.append(row)
        start = [next(line["val_accuracy"] for _, line in side.outcome.lines) for side in ours]
        lab.note(
            f"{mode}: ours starts from the head fitted on frozen features, with a validation accuracy of "
            f"{statistics.median(start):.3f}; its best epoch has "
            f"{statistics.median(max(line['val_accuracy'] for _, line in side.outcome.lines) for side in ours):.3f}."
        )
    return rows


def first_time(side: Side, goal: float) -> float | None:
    """Seconds after the start of our process when its log first told of such an accuracy."""
    return next((seconds for seconds, row in side.outcome.lines if row["val_accuracy"] >= goal), None)


# --- parts ------------------------------------------------------------------------------------------------------


def pipeline(lab: Lab) -> list[Row]:
    """Decoding and computing together, against the slower of the two alone."""
    photos = lab.data("hymenoptera")
    data = photos if lab.dry else lab.pictures("repeat", photos, "--count", 1_985)
    size, rows = lab.size(224), []
    for name in (NETWORK, "random:resnet18"):
        found = lab.script(
            "pipeline.py", "--data", data, "--source", lab.source(name), "--size", size, "--rounds", lab.rounds
        )
        decode, forward = statistics.median(found["decode"]), statistics.median(found["forward"])
        ours, slower = statistics.median(found["embed"]), min(decode, forward)
        together = 1 / (1 / decode + 1 / forward)
        rows.append(
            Row(
                f"feature pipeline, {name} at {size} px, {found['images']:,} images ({found['engine']})",
                "forward alone" if forward < decode else "decoding alone",
                "images/s", found["embed"], found["forward" if forward < decode else "decode"],
                got=f"{100 * ours / slower:.0f} %", wanted="85 % (95 %)", reached=ours / slower >= 0.85,
                limit=f"decoding {decode:,.0f} and forward {forward:,.0f} on the same cores: {together:,.0f} images/s, "
                f"{100 * ours / together:.0f} %",
            )
        )  # fmt: skip
    lab.note(
        "Decoding and forward each use all cores when alone. Where they share them, 1 / (1/decoding + 1/forward) is "
        "the most that any pipeline can give; the share of that is in the last column."
    )
    return rows


def growth(lab: Lab) -> list[Row]:
    """Seconds and memory of whole processes on ever more pictures."""
    sizes = (40, 80, 160) if lab.dry else (1_000, 10_000, 100_000)
    flags = ("--strategy", "frozen", "--views", 0)
    places = {n: lab.pictures("draw", "--count", n) for n in sizes}
    found: dict[int, list[Side]] = {n: [] for n in sizes}
    for number in range(lab.rounds):
        for n in sizes:
            if number == 0 or n < sizes[-1]:
                found[n].append(lab.ours(places[n], "toy", *flags))
    seconds = [statistics.median(seconds_of(found[n])) for n in sizes]
    small, large = (1000 * (seconds[k + 1] - seconds[k]) / (sizes[k + 1] - sizes[k]) for k in (0, 1))
    peaks = [max(side.outcome.peak_mb for side in found[n]) for n in sizes]
    own = [max(side.outcome.anonymous_mb for side in found[n]) for n in sizes]
    note_where(lab, found[sizes[-1]])
    for n, time_taken, peak, anonymous in zip(sizes, seconds, peaks, own, strict=True):
        lab.note(
            f"{n:,} items: {time_taken:.1f} s, peak {peak:,.0f} MB, of it {anonymous:,.0f} MB without mapped files."
        )
    title = f"growth, toy network, {sizes[0]:,} → {sizes[-1]:,} drawn items"
    change, more = 100 * (large / small - 1), peaks[-1] - peaks[0]
    return [
        Row(
            f"{title}: time an item above the constant part", f"{sizes[0]:,} → {sizes[1]:,} items", "ms", [large],
            [small], got=f"{change:+.0f} %", wanted="within 10 %", reached=small > 0 and change <= 10,
        ),
        Row(
            f"{title}: peak memory", f"{sizes[0]:,} items", "MB", [peaks[-1]], [peaks[0]], got=f"{more:+,.0f} MB",
            wanted="within 300 MB", reached=more <= 300,
        ),
    ]  # fmt: skip


def startup(lab: Lab) -> list[Row]:
    """Import, help, and the prediction of one picture beyond importing torch: the least of five."""
    data, source = lab.data("hymenoptera"), lab.source(NETWORK)
    home = lab.fresh_home()
    folder = lab.scratch / "startup-run"
    picture = next(path for path in sorted(data.rglob("*.jpg")))
    python = [sys.executable]
    environment = {"HEADSTART_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    program = [*python, "-m", "headstart"]
    clock([*program, "fit", data, "--source", source, "--out", folder, "--overwrite", "--quiet"], environment)
    commands = {
        "nothing": [*python, "-c", "pass"],
        "import headstart": [*python, "-c", "import headstart"],
        "headstart --help": [*program, "--help"],
        "import torch": [*python, "-c", "import torch"],
        "predict": [*program, "predict", folder, picture],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(2 if lab.dry else 5):
        for name, words in commands.items():
            taken[name].append(clock(words, environment))
    bare = min(taken["nothing"])
    rows = []
    for work, base, most in (
        ("import headstart", bare, 0.15),
        ("headstart --help", 0.0, 0.3),
        ("predict", min(taken["import torch"]), 1.5),
    ):
        value = min(taken[work]) - base
        against = {"import headstart": "beyond an empty Python", "predict": "beyond importing torch"}.get(work, "whole")
        name = "predict, one picture" if work == "predict" else f"`{work}`" if "import" in work else "the help page"
        rows.append(
            Row(name, against, "s", [value], [base] if base else [], got=f"{value:.2f} s", wanted=f"under {most} s",
                reached=value < most)
        )  # fmt: skip
    lab.note("The least of five, the commands in turn; the other column is what is taken off.")
    return rows


def clock(words: list[object], environment: dict[str, str]) -> float:
    """Seconds of a process."""
    started = time.perf_counter()
    told = subprocess.run(
        [str(word) for word in words], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if told.returncode:
        raise RuntimeError(f"{words} ended with {told.returncode}: {told.stderr[-1000:]}")
    return seconds


CASES: dict[str, Case] = {
    "frozen-cifar10": Case("frozen on 10,000 CIFAR-10 images against the frozen tutorial loop", frozen_cifar10, 1, 6),
    "frozen-hymenoptera": Case("frozen on ants and bees, audit and report included", frozen_hymenoptera, 3, 9),
    "frozen-sklearn": Case("frozen on 5,000 images against one pass and scikit-learn", frozen_sklearn, 3, 4),
    "warm": Case("a second fit on the same data with another head", warm, 3, 3),
    "partial": Case("the last two blocks against the same freeze in plain PyTorch", partial, 2, 4),
    "full": Case("all layers: images a second of training", full, 2, 5),
    "best-accuracy": Case("time until the best accuracy that the plain loop ever reaches", best_accuracy, 1, 8),
    "pipeline": Case("the feature pipeline against the slower of its parts", pipeline, 3, 3),
    "growth": Case("1,000 to 100,000 items: time and memory", growth, 2, 6),
    "startup": Case("import, help and one prediction", startup, 1, 1),
}
