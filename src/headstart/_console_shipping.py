"""What the command line prints of a finished run that is used: exports, and what else was made of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.console import between, percent, table, write
from headstart.progress import safe

__all__ = ["exported", "extended", "extension_rows", "pruned", "pushed"]


def exported(made: Mapping[str, Any]) -> None:
    """Write what an export is, how it was judged and how fast it is."""
    told, change, pixels = made["export"], made["accuracy"], made["pixels"]
    size, before = sum(entry["bytes"] for entry in told["files"].values()), made["model"]["bytes"]
    where = "held-out" if made["data"]["held_out"] else "training"
    rows = [
        ("export", f"{told['to']} {told['precision']}, {size / 1e6:.1f} MB (the model: {before / 1e6:.1f} MB)"),
        ("judged on", f"{made['n']} {where} pictures, {len(made['whole']['flipped'])} with another answer"),
        ("accuracy", f"{percent(change['model'])} as it was, {percent(change['export'])} exported "
         f"(change {_points(change['change_points'], change['interval_points'])})"),
        ("probabilities", f"differ by {made['network']['max_probability_difference']:.1g} on the same pixels, "
         f"by {made['whole']['max_probability_difference']:.1g} from the file on"),
        ("pixels", f"{pixels['pictures_that_differ']} pictures differ, by {pixels['max_levels']} of 255 at most"),
    ]  # fmt: skip
    for n in (1, 32):
        took = made["latency"][f"batch_{n}"]
        rows.append(
            (f"{n} picture{'s' if n > 1 else ''}", f"{took['export_ms']:.1f} ms (torch: {took['torch_ms']:.1f} ms)")
        )
    for name, text in rows:
        write(f"{name:<14} {safe(text)}")
    write(f"{'written to':<14} {safe(made['folder'])}")


def pushed(made: Mapping[str, Any]) -> None:
    """Write what was sent to the Hub and how it is opened; of a dry run what would be, and the card."""
    seen = "private" if made["private"] else "public: everybody can see it"
    if made["dry_run"]:
        width = max(len(entry["name"]) for entry in made["files"])
        for entry in made["files"]:
            write(f"{safe(entry['name']):<{width}}  {entry['bytes']:>12,} bytes")
        total = sum(entry["bytes"] for entry in made["files"])
        write(f"\n{len(made['files'])} files, {total / 1e6:.1f} MB, would go to {safe(made['repository'])} ({seen}).")
        write("Nothing was sent. The card, README.md:\n")
        for line in made["card"].splitlines():
            write(safe(line))
        return
    write(f"{'sent to':<14} {safe(made['url'])} ({seen})")
    write(f"{'commit':<14} {safe(made['commit'])}")
    write(f"{'open it with':<14} headstart predict hf-hub:{safe(made['repository'])} PICTURES")


def pruned(made: Mapping[str, Any]) -> None:
    """Write the curve of a pruning, how the chosen network answers, and where it stands."""
    n = made["validation"]["n"]
    columns = [
        "",
        "multiply-adds",
        "parameters",
        "pixels",
        f"right of {n} validation pictures",
        "change",
        "one picture",
        "a second",
    ]
    rows = []
    for number, point in enumerate(made["points"]):
        change = "" if not number else f"{point['change_points']:+.1f} ({between(point['change_interval'], 1.0, '')})"
        right = f"{percent(point['accuracy'])} ({between(point['accuracy_interval'])})"
        rows.append([
            "chosen" if number == made["chosen"] else "whole" if not number else "",
            f"{point['macs'] / 1e6:,.1f} M ({point['speedup']:.2f}x)", f"{point['parameters'] / 1e6:,.3f} M",
            f"{point['image_size'][0]} x {point['image_size'][1]}", right, change,
            f"{point['latency']['ms']:.1f} ms", f"{point['latency']['images_per_second']:,.0f}",
        ])  # fmt: skip
    table(columns, rows, right=(1, 2, 3, 4, 5, 6, 7))
    write()
    size = made["model"]
    lines = [("size", f"{size['bytes'] / 1e6:.2f} MB (the whole model: {size['bytes_before'] / 1e6:.2f} MB)")]
    if test := made["test"]:
        lines.append(
            ("test", f"{percent(test['scores']['accuracy'])} of {test['n']} pictures, the whole model "
             f"{percent(test['whole']['accuracy'])} "
             f"(change {_points(test['change_points'], test['change_interval'])})")
        )  # fmt: skip
    lines.append(("written to", made["folder"]))
    for name, text in lines:
        write(f"{name:<14} {safe(text)}")


_MOST = 10  # new classes that are named
_WAYS = {
    "statistics": "from the statistics it kept: as if fitted on all pictures, to rounding",
    "rows": "fitted again on the features of all pictures, old and new",
    "refitted": "a new one on the features of the trained network, old pictures and new",
    "neighbours": "the new pictures joined the old neighbours; about their old centre, so not as fitted on all",
}


def extension_rows(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an extension did and what came of it, as extended.json holds it: a name and a text for each line."""
    new, added = told["new"], told["classes"]["added"]
    spared = [
        (len(new["seen_before"]), "seen before"), (len(new["repeated"]), "repeated"),
        (len(new["contradictory"]), "with two labels"), (len(new["skipped"]), "unreadable"),
    ]  # fmt: skip
    left_out = ", ".join(f"{n} {why}" for n, why in spared if n)
    n, again = told["old"]["pictures"], told["old"]["looked_at_again"]
    by = "not needed" if told["way"] in ("statistics", "neighbours") else "their features were kept"
    rows = [
        ("learned", _pictures(new["pictures"], "new picture") + (f"; left out: {left_out}" if left_out else "")),
        ("new classes", _named(added, new["per_class"])),
        ("head", f"{told['head']}: {_WAYS[told['way']]}"),
        ("old pictures", f"{n}: {f'{again} looked at again' if again else by}"),
        ("on old test", _forgetting_words(told["forgetting"])),
        ("on new ones", _held_back_words(told["held_back"])),
    ]
    title = "exact but for" if told["exact"] else "not exact"
    return rows + [("" if number else title, text) for number, text in enumerate(told["limits"])]


def _named(classes: Sequence[str], counts: Mapping[str, int]) -> str:
    """Some of the classes, each with its pictures."""
    shown = [f"{name} ({counts.get(name, 0)})" for name in classes[:_MOST]]
    return ", ".join([*shown, *([f"and {len(classes) - _MOST} more"] if len(classes) > _MOST else [])]) or "none"


def _points(change: float, interval: Sequence[float]) -> str:
    return f"{change:+.1f}, {between(interval, 1.0, ' points')}"


def _pictures(n: int, name: str = "picture") -> str:
    return f"{n} {name}{'' if n == 1 else 's'}"


def _change(told: Mapping[str, Any]) -> str:
    points = f"{told['change_points']:+.1f} points, {between(told['interval_points'], 1.0, '')}"
    return f"{percent(told['accuracy_before'])} right before, {percent(told['accuracy_after'])} after ({points})"


def _forgetting_words(told: Mapping[str, Any]) -> str:
    if not told["n"]:
        return f"forgetting was not measured: {told['why']}"
    some = f" of {told['of']}" if told["n"] < told["of"] else ""
    return f"{told['n']}{some} held-out pictures: {_change(told)}; {told['called_new']} now called a new class"


def _held_back_words(told: Mapping[str, Any]) -> str:
    if not told["n"]:
        return f"not measured: {told['why']}"
    how = "of their own test split" if told["kind"] == "test split" else "held back, then learned too"
    words = f"{percent(told['accuracy'])} right ({between(told['interval'])}) of {told['n']} {how}"
    words += f"; stated probability {percent(told['probability'])} on average"
    if known := told.get("known_classes"):
        words += f"; {known['n']} of known classes: {_change(known)}"
    return words


def extended(made: Mapping[str, Any]) -> None:
    """Write what was learned, by which way, and what it did to answers."""
    for name, text in extension_rows(made):
        write(f"{name:<14} {safe(text)}")
    write(f"{'written to':<14} {safe(made['folder'])}")
