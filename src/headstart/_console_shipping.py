"""What the command line prints of a finished run that is used: exports, and what else was made of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.console import between, percent, table, write
from headstart.progress import safe

__all__ = ["exported", "pruned", "pushed"]


def exported(made: Mapping[str, Any]) -> None:
    """Write what an export is, how it was judged and how fast it is."""
    told, change, pixels = made["export"], made["accuracy"], made["pixels"]
    size, before = sum(entry["bytes"] for entry in told["files"].values()), made["model"]["bytes"]
    where = "held-out" if made["data"]["held_out"] else "training"
    rows = [
        ("export", f"{told['to']} {told['precision']}, {size / 1e6:.1f} MB (the model: {before / 1e6:.1f} MB)"),
        ("judged on", f"{made['n']} {where} pictures, {len(made['whole']['flipped'])} with another answer"),
        ("accuracy", f"{percent(change['model'])} as it was, {percent(change['export'])} exported "
         f"(change {between(change['interval_points'], 1.0, ' points')})"),
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
            right, change, f"{point['latency']['ms']:.1f} ms", f"{point['latency']['images_per_second']:,.0f}",
        ])  # fmt: skip
    table(columns, rows, right=(1, 2, 3, 4, 5, 6))
    write()
    size = made["model"]
    lines = [("size", f"{size['bytes'] / 1e6:.2f} MB (the whole model: {size['bytes_before'] / 1e6:.2f} MB)")]
    if test := made["test"]:
        lines.append(
            ("test", f"{percent(test['scores']['accuracy'])} of {test['n']} pictures, the whole model "
             f"{percent(test['whole']['accuracy'])} (change {test['change_points']:+.1f}, "
             f"{between(test['change_interval'], 1.0, ' points')})")
        )  # fmt: skip
    lines.append(("written to", made["folder"]))
    for name, text in lines:
        write(f"{name:<14} {safe(text)}")
