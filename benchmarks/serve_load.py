"""A load run of `headstart serve` on this machine: how many answers a second, how late, and what overload does.

    python benchmarks/serve_load.py [--seconds S] [--engines torch,onnx] [--run RUN] [--quick]

For each engine the server is a process of its own, and this process is its only client. 1, 8 and 64 kept connections
ask in turns, again as soon as they are answered; then 1,000 more send a byte a second each; then ten times as many
requests a second arrive as it can answer, over 256 connections, whatever comes back (for S seconds with the first
engine, a quarter of it with the others); then it is killed and started again. Every answer must have the bytes that its
picture got alone. Without --run a frozen run is made from a shared set (HEADSTART_SHARED) and exported; --quick takes
drawn pictures and the toy network, to see that all of it works. Writes benchmarks/results/serve.json, serve.md, and the
table in docs/serve.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
import psutil
import serve_client
from serve_client import Asked, Told, middle, percentile

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin of the table: written by benchmarks/serve_load.py -->", "<!-- end of the table -->"
LEVELS, SLOW, TIMES, OVER = (1, 8, 64), 1_000, 10, 256
PHOTOS, BYTES = 16, 50_000  # photos that are asked in turn, and how large they are about
DATA, SOURCE = "data/hymenoptera", "sources/mobilenetv2_100.google_qat_in1k"


class Server:
    """`headstart serve` as a process of its own."""

    def __init__(self, run: Path, engine: str, *, port: int = 0) -> None:
        free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        words = [sys.executable, "-m", "headstart", "serve", str(run), "--no-neighbours", "--engine", engine]
        self.process = subprocess.Popen(
            [*words, "--port", str(port)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=free
        )
        said = []
        for line in self.process.stderr or ():
            said.append(line)
            if found := re.search(r"answers at http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise RuntimeError(f"the server ended with {self.process.wait()}:\n{''.join(said)}")

    @property
    def memory(self) -> float:
        """Its resident MB."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    @property
    def worked(self) -> float:
        """The processor seconds that it has taken."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def serving(run: Path, engine: str) -> Iterator[Server]:
    """A server, killed at the end."""
    server = Server(run, engine)
    try:
        yield server
    finally:
        server.end()


# --- the load -----------------------------------------------------------------------------------------------------


class Row:
    """What one kind of load gave in its rounds."""

    def __init__(self, load: str) -> None:
        self.load, self.rates = load, list[float]()
        self.all, self.worked, self.before, self.after = Told(), 0.0, 0.0, 0.0

    def add(self, told: Told, *, worked: float, before: float, after: float) -> None:
        """Count one round: processor seconds and MB are the server's."""
        self.rates.append(told.rate)
        self.worked += worked
        self.before, self.after = self.before or before, after
        for name in ("good", "busy"):
            getattr(self.all, name).extend(getattr(told, name))
        for name in ("without_time", "other", "broken", "different", "seconds"):
            setattr(self.all, name, getattr(self.all, name) + getattr(told, name))

    def as_dict(self) -> dict[str, Any]:
        """The row for the JSON file: seconds as milliseconds."""
        told = self.all
        return {
            "load": self.load, "rates": self.rates, "answered": len(told.good), "busy": len(told.busy),
            "p50": 1e3 * percentile(told.good, 0.5), "p99": 1e3 * percentile(told.good, 0.99),
            "slowest": 1e3 * max(told.good, default=float("nan")),
            "busy_p50": 1e3 * percentile(told.busy, 0.5), "busy_p99": 1e3 * percentile(told.busy, 0.99),
            "busy_without_time": told.without_time, "other": told.other, "broken": told.broken,
            "different": told.different, "worked_ms": 1e3 * self.worked / max(1, len(told.good)),
            "memory": [self.before, self.after], "seconds": told.seconds,
        }  # fmt: skip


async def measured(row: Row, server: Server, load: Any) -> Told:
    """Run one load to its end and count it."""
    before, worked = server.memory, server.worked
    told: Told = await load
    row.add(told, worked=server.worked - worked, before=before, after=server.memory)
    return told


async def loaded(
    server: Server, photos: Sequence[bytes], options: argparse.Namespace, *, over: float
) -> dict[str, Any]:
    """Every kind of load in turn; `over` is how many seconds the overload takes."""
    asked = await serve_client.alone(server.port, photos)
    rows = [Row(f"{n} connection{'s' * (n > 1)}") for n in LEVELS]
    await serve_client.closed(server.port, asked, connections=8, seconds=options.level_seconds)  # warm
    for _ in range(options.rounds):
        for row, connections in zip(rows, LEVELS, strict=True):
            load = serve_client.closed(server.port, asked, connections=connections, seconds=options.level_seconds)
            await measured(row, server, load)
    slow = Row(f"8 connections beside {options.slow:,} slow ones")
    crowd = asyncio.create_task(serve_client.slowly(server.port, connections=options.slow))
    await asyncio.sleep(1.0)  # until they are there
    load = serve_client.closed(server.port, asked, connections=8, seconds=2 * options.level_seconds)
    await measured(slow, server, load)
    crowd.cancel()
    capacity = max(middle(row.rates) for row in rows)
    flood = Row(f"{TIMES} times the capacity, {over:g} s")
    mine, rate = time.process_time(), TIMES * capacity
    told = await measured(
        flood, server, serve_client.opened(server.port, asked, rate=rate, seconds=over, connections=OVER)
    )
    mine = time.process_time() - mine
    normal = 1.5 * percentile(rows[0].all.good, 0.99)
    back = await serve_client.back_to_normal(server.port, asked, normal=normal)
    return {
        "rows": [row.as_dict() for row in [*rows, slow, flood]], "capacity": capacity, "back_seconds": back,
        "asked_rate": (len(told.good) + len(told.busy)) / told.seconds, "client_share": mine / told.seconds,
    }  # fmt: skip


async def first_answer(port: int, asked: Asked) -> bytes:
    """The body of one answer."""
    connection = await serve_client.Connection.to(port)
    try:
        return (await connection.ask(asked.data))[2]
    finally:
        connection.close()


def killed(server: Server, run: Path, engine: str, photo: bytes) -> float:
    """Seconds from kill -9 until a server that is started on the same port answers as before."""
    asked = Asked(serve_client.request_of(photo))
    wanted = asyncio.run(first_answer(server.port, asked))
    started = time.perf_counter()
    server.end()
    again = Server(run, engine, port=server.port)
    try:
        if asyncio.run(first_answer(again.port, asked)) != wanted:
            raise RuntimeError("the restarted server answers otherwise")
        return time.perf_counter() - started
    finally:
        again.end()


# --- what there is to serve ---------------------------------------------------------------------------------------


def headstart(*words: object) -> None:
    """Run a verb to its end. RuntimeError with its last words when it fails."""
    command = [sys.executable, "-m", "headstart", *map(str, words)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise RuntimeError(f"headstart {words[0]} ended with {told.returncode}: {told.stderr[-500:]}")


def made_run(scratch: Path, engines: Sequence[str], *, data: Path, source: str) -> Path:
    """A frozen run, with the exports that the engines need."""
    run = scratch / "run"
    headstart("fit", data, "--out", run, "--source", source, "--strategy", "frozen", "--no-scratch")
    for engine in engines:
        if engine != "torch":
            headstart("export", run, "--to", engine)
    return run


def photos_of(data: Path) -> list[bytes]:
    """The photos whose size is nearest to BYTES."""
    files = sorted(data.rglob("*.jpg"), key=lambda path: (abs(path.stat().st_size - BYTES), path.as_posix()))
    return [path.read_bytes() for path in files[:PHOTOS]]


def alone(run: Path, data: Path) -> dict[str, float]:
    """Photos a second of decoding alone and of each engine alone, on all cores, one photo at a time in the network."""
    words = [sys.executable, str(Path(__file__).with_name("serve_alone.py")), str(run), str(data)]
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    told = subprocess.run(words, capture_output=True, text=True, check=True, env=free)
    return dict(json.loads(told.stdout))


# --- the page -----------------------------------------------------------------------------------------------------


def page_of(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| computed by | load | answers a second | p50 ms | p99 ms | refused | its processor ms an answer | its MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for engine, one in found["engines"].items():
        for row in one["rows"]:
            total = row["answered"] + row["busy"]
            refused = f"{row['busy']:,} of {total:,}" if row["busy"] else "none"
            cells = [
                engine, row["load"], harness.spread(row["rates"]), f"{row['p50']:,.0f}", f"{row['p99']:,.0f}", refused,
                f"{row['worked_ms']:.1f}", f"{row['memory'][0]:,.0f} → {row['memory'][1]:,.0f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for engine, one in found["engines"].items():
        lines.append(f"- {engine}: {_words(one, found['alone'], engine)}")
    photos, size = found["photos"], found["photo_bytes"] / 1e3
    lines.append(
        f"- {photos} photos of {size:.0f} kB in turn, one a request; p50 and p99 are of the answers with 200, over all "
        "rounds. Client and server share the cores."
    )
    lines.append(
        f"- Measured {found['date']} with `{found['command']}` in {found['minutes']:.1f} min: "
        f"{harness.machine_words(found['machine'])}."
    )
    return "\n".join(lines) + "\n"


def _words(one: Mapping[str, Any], alone: Mapping[str, float], engine: str) -> str:
    rows, (_, few, crowded, *_, flood) = one["rows"], one["rows"]
    limit = 1 / (1 / alone["decode"] + 1 / alone[engine])
    different, other, broken, without = (
        sum(row[name] for row in rows) for name in ("different", "other", "broken", "busy_without_time")
    )
    share, best = one["capacity"] / limit, middle(flood["rates"]) / one["capacity"]
    return (
        f"decoding alone {alone['decode']:,.0f} photos a second and the network alone {alone[engine]:,.0f}, one after "
        f"the other at most {limit:,.0f}; the server's best is {share:.0%} of that. Under {TIMES} times the load "
        f"({one['asked_rate']:,.0f} requests a second came through) it gives {best:.0%} of its best; p99 is "
        f"{flood['p99'] / crowded['p99']:.1f} times that of 64 connections, {flood['p99'] / few['p99']:.1f} times that "
        f"of 8; a refusal takes {flood['busy_p50']:.1f} ms (p99 {flood['busy_p99']:.0f}). Back to normal in "
        f"{one['back_seconds']:.2f} s. Answers {one['restart_seconds']:.1f} s after kill -9 when it is started again. "
        f"Of {sum(row['answered'] for row in rows):,} answers {different} differ from those given alone; {other} other "
        f"codes, {broken} broken connections, {without} refusals without Retry-After."
    )


def write(found: Mapping[str, Any], folder: Path, page: Path | None) -> str:
    """Write serve.json and serve.md, and put the table between the marks of `page`."""
    text = page_of(found)
    harness.keep(found, text, folder, name="serve", page=page, marks=(BEGIN, END))
    return text


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="torch,onnx", help="of torch, onnx and openvino, the first for longest")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--level-seconds", type=float, default=2.0, help="of each level in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow", type=int, default=SLOW, help="connections that send a byte a second")
    parser.add_argument("--run", type=Path, default=None, help="serve this run; it must have the engines' exports")
    parser.add_argument("--data", type=Path, default=None, help="JPEG files to ask with; without --run also to fit on")
    parser.add_argument("--results", type=Path, default=None, help="default: benchmarks/results; quick: not kept")
    parser.add_argument("--quick", action="store_true", help="drawn pictures, the toy network, moments")
    options = parser.parse_args(words)
    if options.quick:
        options.seconds, options.level_seconds, options.rounds, options.slow = 1.0, 0.3, 1, 20
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Measure every engine and write what was found."""
    options = options_of(words)
    shared = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
    if not options.quick and not options.data and not (shared / DATA).is_dir():
        raise SystemExit(f"no shared data at {shared}: set HEADSTART_SHARED, or give --data or --quick")
    before, started = harness.machine(), time.perf_counter()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4_096)), hard))  # the server inherits it
    engines = options.engines.split(",")
    found: dict[str, Any] = {"machine": before, "engines": {}}
    with tempfile.TemporaryDirectory(prefix="headstart-load-") as temporary:
        scratch, data = Path(temporary), options.data or shared / DATA
        if options.quick:
            import pictures

            data = options.data or scratch / "drawn"
            pictures.draw(scratch / "drawn", count=80, splits=True)
        source = "toy" if options.quick else str(shared / SOURCE)
        run = options.run or made_run(scratch, engines, data=data, source=source)
        photos = photos_of(data)
        found["alone"] = alone(run, data)
        for number, engine in enumerate(engines):
            over = options.seconds if number == 0 else options.seconds / 4
            with serving(run, engine) as server:
                one = asyncio.run(loaded(server, photos, options, over=over))
                one["restart_seconds"] = killed(server, run, engine, photos[0])
            found["engines"][engine] = one
        given = sys.argv[1:] if words is None else words
        found |= {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "photos": len(photos),
            "photo_bytes": middle([len(photo) for photo in photos]), "minutes": (time.perf_counter() - started) / 60,
            "command": " ".join(["python", "benchmarks/serve_load.py", *given]),
        }  # fmt: skip
        results = options.results or (scratch if options.quick else ROOT / "benchmarks" / "results")
        kept = options.results is None and not options.quick
        print(write(found, results, ROOT / "docs" / "serve.md" if kept else None))


if __name__ == "__main__":
    main()
