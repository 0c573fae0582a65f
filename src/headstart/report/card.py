"""A model card: a run's record as README.md, with the front matter that the Hub reads.

What of it stands in every model folder is the same when the same command runs again. Time, machine and energy are told
where a `Footprint` is given: when the model is shared. Names of files never are, and of paths the last name alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headstart.report import claims, sentences
from headstart.report.footprint import Footprint, footprint_words
from headstart.report.front_matter import front_matter
from headstart.report.markup import bullets, plain, sentence
from headstart.report.markup import table as grid
from headstart.report.places import places_of, without_places
from headstart.report.reading import entries, interval, number, records, table, text, texts
from headstart.report.words import count, duration, listed, network_name, plural, score, signed

__all__ = ["Shared", "model_card"]

_MOST_CLASSES = 100  # rows of a table of classes; of more the weakest are shown
_WEAKEST = 10
_CONFUSED = 10


@dataclass(frozen=True, slots=True)
class Shared:
    """What a card says beside the run's record: `address` is how the model is opened, `exports` their certificates."""

    address: str = "MODEL"
    exports: Sequence[Mapping[str, Any]] = ()
    footprint: Footprint | None = None
    clocks: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json: whether timm opens the classifier

    @property
    def in_timm(self) -> bool:
        """Whether timm opens the finished classifier as it is."""
        architecture = text(self.config, "architecture")
        return bool(number(self.config, "num_classes")) and not architecture.startswith("torchvision/")

    @property
    def on_hub(self) -> bool:
        """Whether the address is one of the Hub."""
        return self.address.startswith("hf-hub:")


def model_card(run: Mapping[str, Any], shared: Shared | None = None) -> str:
    """The card of a run's model; parts that the record lacks are left out."""
    shared, run = shared or Shared(), without_places(run, places_of(run))
    head = sentences.headline(run)
    blocks = [
        f"# {sentence(head.title)}",
        sentence(head.plain),
        f"**{sentence(head.figures)}**" if head.figures else "",
        *_use(run, shared),
        *_titled("Can I trust this, and where not?", [sentence(sentences.trust(run)[0]), bullets(_limits(run))]),
        *_titled("Scores", _scores(run)),
        *_titled("Certainty", _certainty(run)),
        *_titled("Data", _data(run)),
        *_titled("Training", _training(run, shared)),
        *_titled("Licences", _licences(run)),
        *_titled("Energy and carbon", [sentence(footprint_words(shared.footprint))]),
    ]
    facts = front_matter(run, name=shared.address, in_timm=shared.in_timm, footprint=shared.footprint)
    return facts + "\n" + "\n\n".join(block for block in blocks if block) + "\n"


def _titled(title: str, blocks: Sequence[str]) -> list[str]:
    filled = [block for block in blocks if block]
    return [f"## {title}", *filled] if filled else []


def _classes(run: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in entries(run, "data", "classes")]


# --- use ----------------------------------------------------------------------------------------------------------


def _use(run: Mapping[str, Any], shared: Shared) -> list[str]:
    """How to ask the model, with headstart, with timm and with an export."""
    address, classes = shared.address, _classes(run)
    named = ", ".join(plain(name) for name in classes[:_MOST_CLASSES])
    more = f" and {count(len(classes) - _MOST_CLASSES)} more" if len(classes) > _MOST_CLASSES else ""
    lines = [
        f"It answers with one of {plural(len(classes), 'class', 'classes')}: {named}{more}." if classes else "",
        "With headstart, which checks every file and gives calibrated probabilities:",
        f"```bash\nheadstart predict {address} PICTURES\n```",
        f'```python\nimport headstart\n\nanswers = headstart.load("{address}").predict(["picture.jpg"])\n```',
    ]
    if shared.in_timm:
        where = address if shared.on_hub else f"local-dir:{address}"
        lines += [
            "With timm alone, the same probabilities" + (", without “unknown”:" if table(run, "reject") else ":"),
            f'```python\nimport timm, torch\nfrom PIL import Image\n\nmodel = timm.create_model("{where}", '
            "pretrained=True).eval()\nfacts = timm.data.resolve_model_data_config(model)\n"
            "view = timm.data.create_transform(**facts, is_training=False)\n"
            'picture = Image.open("picture.jpg").convert("RGB")\n'
            "with torch.inference_mode():\n    chances = model(view(picture)[None]).softmax(1)[0]\n"
            'print(model.pretrained_cfg["label_names"][chances.argmax()], float(chances.max()))\n```',
        ]
    return [*_titled("Use", lines), *_exports(shared)]


def _exports(shared: Shared) -> list[str]:
    """The exports that stand beside the model, as they were judged."""
    rows = []
    for told in shared.exports:
        kind, precision = text(told, "export", "to"), text(told, "export", "precision")
        change = signed(number(told, "accuracy", "change_points"))
        if bounds := interval(told, "accuracy", "interval_points"):
            change += f" ({signed(bounds[0])} to {signed(bounds[1])})"
        files = ", ".join(f"exports/{kind}-{precision}/{name}" for name in sorted(table(told, "export", "files")))
        rows.append([plain(files), count(number(told, "n")), count(number(told, "whole", "other_answers")), change])
    if not rows:
        return []
    words = (
        "Files with the preprocessing inside: they take `images`, uint8 (n, height, width, 3), RGB, of any one size, "
        "and give `probabilities`, `label`, `unknown` and `view`. Each was judged before it was written:"
    )
    return [words, grid(["file", "pictures", "other answers", "accuracy, points"], rows)]


# --- limits and scores --------------------------------------------------------------------------------------------


def _limits(run: Mapping[str, Any]) -> list[str]:
    classes, measured = _classes(run), table(run, "scores", "test") or table(run, "scores", "val")
    lines = [line.replace("; see the learning curves", "") for line in sentences.trust(run)[1]]
    if classes and not table(run, "reject"):
        lines.append("It knows its classes alone: a picture of anything else gets one of them as its answer too.")
    weak = [name for name, row in table(measured, "per_class").items() if (number(row, "recall") or 0.0) < 0.7]
    if weak:
        lines.append(f"It finds fewer than 7 in 10 of {listed(weak)}.")
    for mine, other, times, of in _confused(run)[:3]:
        lines.append(f"It took {mine} for {other} in {count(times)} of {plural(of, 'image')}.")
    if text(run, "diagnosis", "verdict") == "underfits":
        lines.append(text(run, "diagnosis", "sentence"))
    return lines


def _confused(run: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """Pairs of classes that are mixed up, the most frequent first: (true, taken for, times, items of the true one)."""
    classes, found = _classes(run), []
    measured = table(run, "scores", "test") or table(run, "scores", "val")
    for place, row in enumerate(entries(measured, "confusion")):
        cells = [int(number(cell) or 0) for cell in entries(row)]
        if len(cells) == len(classes) > place:
            found += [
                (classes[place], classes[other], times, sum(cells))
                for other, times in enumerate(cells)
                if times and other != place
            ]
    return sorted(found, key=lambda pair: -pair[2])


def _scores(run: Mapping[str, Any]) -> list[str]:
    found = [(name, table(run, "scores", name)) for name in ("test", "val") if table(run, "scores", name)]
    said = (claims.openings_words(run), claims.cross_validation_words(run), claims.twin_score_words(run),
            sentences.baseline_words(run), sentences.gain_words(run), claims.repeats_words(run))  # fmt: skip
    words = sentence(" ".join(filter(None, said)))
    if not found:
        return [words]
    keys = ("n", "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error")
    rows = [[key.replace("_", " "), *(_measure(measured, key) for _, measured in found)] for key in keys]
    names = ["test" if name == "test" else "validation" for name, _ in found]
    confused = [
        [plain(mine), plain(other), count(times), count(of)] for mine, other, times, of in _confused(run)[:_CONFUSED]
    ]
    title, per_class = _per_class(found[0][1])
    return [
        words, grid(["measure", *names], rows), "Intervals hold the true value in 95 of 100 such samples.", title,
        per_class, "What it mixes up most:" if confused else "",
        grid(["class", "taken for", "times", "of"], confused),
    ]  # fmt: skip


def _measure(measured: Mapping[str, Any], key: str) -> str:
    bounds, value = interval(measured, f"{key}_interval"), number(measured, key)
    told = count(value) if key == "n" else score(value)
    return told + (f" ({score(bounds[0])} to {score(bounds[1])})" if bounds else "")


def _per_class(measured: Mapping[str, Any]) -> tuple[str, str]:
    """A table of the classes, the weakest first; of very many the weakest alone."""
    rows = sorted(table(measured, "per_class").items(), key=lambda pair: number(pair[1], "f1") or 0.0)
    shown = rows if len(rows) <= _MOST_CLASSES else rows[:_WEAKEST]
    cells = [
        [plain(name), count(number(row, "n")), score(number(row, "precision")), _recall(row), score(number(row, "f1"))]
        for name, row in shown
    ]
    title = "Each class, the weakest first:" if len(shown) == len(rows) else f"The {_WEAKEST} weakest classes:"
    return (title if cells else ""), grid(["class", "images", "precision", "found", "F1"], cells)


def _recall(row: Mapping[str, Any]) -> str:
    """The share of a class that is found, with Wilson's interval."""
    from headstart.judge.intervals import wilson  # here, for it needs numpy and reports do not

    share, n = number(row, "recall"), number(row, "n")
    if share is None or not n or not 0 <= share <= 1:
        return score(share)
    low, high = wilson(round(share * n), n)
    return f"{score(share)} ({score(low)} to {score(high)})"


def _certainty(run: Mapping[str, Any]) -> list[str]:
    sure = claims.certainty_words(run) or sentences.calibration_words(table(run, "scores", "test"))
    unknown = (claims.reject_words(run), claims.refused_words(run), claims.kept_words(run), claims.foreign_words(run))
    none = "" if table(run, "reject") else "It has no answer “unknown”."
    return [sentence(" ".join(filter(None, (sure, claims.temperature_words(run))))),
            sentence(" ".join(filter(None, unknown)) or none)]  # fmt: skip


# --- data, training, licences ---------------------------------------------------------------------------------------


def _data(run: Mapping[str, Any]) -> list[str]:
    path, splits, classes = text(run, "data", "path"), table(run, "data", "splits"), _classes(run)
    where = f"From “{network_name(path)}”. " if path and path != "memory" else ""
    names = [{"train": "training", "val": "validation"}.get(name, name) for name in splits]
    rows = [
        [plain(name), *(count(number(split, "per_class", name) or 0) for split in splits.values())] for name in classes
    ]
    shown = rows if splits and len(rows) <= _MOST_CLASSES else []
    skipped, leaks = len(entries(run, "data", "skipped")), len(entries(run, "data", "group_leaks"))
    found = [
        f"{plural(skipped, 'file')} could not be used and {'was' if skipped == 1 else 'were'} left out."
        if skipped else "",
        claims.twins_words(run),
        f"{plural(leaks, 'named group')} {'stands' if leaks == 1 else 'stand'} in more than one split."
        if leaks else "",
        claims.issues_words(run),
    ]  # fmt: skip
    said = sentence(where + sentences.data_words(run)) if splits else ""
    return [said, grid(["class", *names], shown), bullets([line for line in found if line])]


def _training(run: Mapping[str, Any], shared: Shared) -> list[str]:
    plan, source = table(run, "plan"), table(run, "source")
    shown = [
        ("strategy", text(plan, "strategy")), ("trained from", text(plan, "cut")), ("head", text(plan, "head")),
        ("epochs", text(plan, "epochs") if number(plan, "epochs") else ""),
        ("source", network_name(text(source, "address"))), ("architecture", text(source, "architecture")),
        ("parameters", count(number(source, "parameters")) if number(source, "parameters") else ""),
        ("weights of the source, sha256", text(source, "sha256")), ("seed", text(run, "seed")),
        ("made with", _made_with(run)), *(_clocks(run) if shared.clocks else ()),
    ]  # fmt: skip
    rows = [[name, plain(value)] for name, value in shown if value]
    tried = records(run, "race")
    raced = f"Chosen among {plural(len(tried), 'way')} of training, on held-out pictures." if len(tried) > 1 else ""
    words = " ".join(filter(None, (sentences.done_words(run), claims.interpolation_words(run), raced)))
    return [sentence(words), bullets(texts(plan, "reasons")), grid(["fact", "value"], rows)]


def _made_with(run: Mapping[str, Any]) -> str:
    found = table(run, "environment")
    named = [("headstart", text(run, "headstart")), ("torch", text(found, "torch")), ("timm", text(found, "timm"))]
    return ", ".join(f"{name} {version}" for name, version in named if version)


def _clocks(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, total = table(run, "environment"), number(run, "seconds", "total")
    device = text(found, "gpu") or text(found, "device")
    cores = number(found, "cores")
    machine = ", ".join(filter(None, (text(found, "processor"), plural(cores, "core") if cores else "", device)))
    return [("time", duration(total) if total is not None else ""), ("machine", machine)]


def _licences(run: Mapping[str, Any]) -> list[str]:
    source, data = text(run, "source", "licence"), table(run, "data", "licence")
    unknown = "not stated: find out before you share"
    stated = f"{plain(text(data, 'name'))} (by its {plain(text(data, 'file'))})" if text(data, "name") else unknown
    return ["\n".join([f"- Source: {plain(source) if source else unknown}", f"- Data: {stated}"])]
