"""Speed of headstart beside the usual ways: whole processes, ours and theirs in turn in one run.

    python benchmarks/speed.py [CASE ...] [--rounds N] [--peer-python PATH] [--dry]

The cases are listed by `--list`; without names all are run. `ours` is the real command line in a fresh HEADSTART_HOME,
so nothing is warm unless the case is about warmth. Every folder of pictures is read once before it is used, so that no
side finds the disk colder. Writes benchmarks/results/speed.json (merged case by case), speed.md, and the table in
docs/performance.md. `--dry` runs every case on a few drawn pictures with the toy network, to see that all of it works.
The peers fastai and transformers may live in another environment: --peer-python. Needs the shared data
(HEADSTART_SHARED) unless it is dry.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
from cases import CASES
from lab import Lab

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin of the table: written by benchmarks/speed.py -->", "<!-- end of the table -->"


def results_page(found: Mapping[str, Any]) -> str:
    """The results as Markdown: a table for each case, and the machine."""
    parts = []
    for name, case in found.items():
        said = [f"**{name}**: {case['title']}", "", harness.table(case["rows"])]
        said += [f"- {note}" for note in case["notes"]]
        said.append(
            f"- Measured {case['date']} with `{case['command']}` in {case['minutes']:.0f} min: "
            f"{harness.machine_words(case['machine'])}."
        )
        parts.append("\n".join(said))
    return "\n\n".join(parts) + "\n"


def write(found: Mapping[str, Any], folder: Path, page: Path | None) -> None:
    """Write speed.json and speed.md, and put the table between the marks of `page`."""
    harness.keep(found, results_page(found), folder, name="speed", page=page, marks=(BEGIN, END))


def known(folder: Path) -> dict[str, Any]:
    """The results that are there already."""
    path = folder / "speed.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def main() -> None:
    """Run the cases and write what they gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--rounds", type=int, default=None, help="default: each case's own")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--scratch", type=Path, default=None, help="keep pictures and runs here")
    parser.add_argument(
        "--results", type=Path, default=None, help="default: benchmarks/results; dry: the scratch folder"
    )
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, case in CASES.items():
            print(f"{name:20s} about {case.minutes:3.0f} min, {case.rounds} rounds: {case.title}")
        return
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown cases {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    with tempfile.TemporaryDirectory(prefix="headstart-benchmarks-") as temporary:
        scratch = options.scratch or Path(temporary)
        shared = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
        if not options.dry and not (shared / "data").is_dir():
            parser.error(f"no shared data at {shared}: set HEADSTART_SHARED, or give --dry")
        results = options.results or (scratch / "results" if options.dry else ROOT / "benchmarks" / "results")
        page = None if options.dry or options.results else ROOT / "docs" / "performance.md"
        lab = Lab(scratch, shared=shared, peer_python=options.peer_python, dry=options.dry)
        failed = []
        for name in options.cases or CASES:
            case = CASES[name]
            lab.rounds = options.rounds or (1 if options.dry else case.rounds)
            print(f"== {name}: {case.title}", flush=True)
            before, started = harness.machine(), time.perf_counter()
            try:
                rows = case.run(lab)
            except (RuntimeError, OSError) as error:
                failed.append(name)
                print(f"{name} failed: {error}", flush=True)
                continue
            words = ["python", "benchmarks/speed.py", name]
            words += ["--rounds", str(options.rounds)] if options.rounds else []
            found = known(results)
            found[name] = {
                "title": case.title, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                "command": " ".join(words), "minutes": (time.perf_counter() - started) / 60, "machine": before,
                "rows": [row.as_dict() for row in rows], "notes": lab.take_notes(),
            }  # fmt: skip
            ordered = {key: found[key] for key in [*CASES, *found] if key in found}
            write(ordered, results, page)
            print(harness.table([row.as_dict() for row in rows]), flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
