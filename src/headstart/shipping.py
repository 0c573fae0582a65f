"""From a finished run to something that is used: export, explain and serve, beside the verbs of api.

Every verb leaves the run's own files as they are, but for report.html, which tells of what was exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import files
from headstart.errors import DataError, MissingExtraError, ModelError, RunError, SettingsError, did_you_mean
from headstart.progress import Reporter, Silent

if TYPE_CHECKING:
    from headstart.ship.exported import ExportedModel
    from headstart.ship.model import Model
    from headstart.ship.neighbours import Neighbours

__all__ = ["ENGINES", "answering", "explain", "export", "serve"]

ENGINES = ("auto", "torch", "onnx", "openvino")
"""What the answers of `predict` and `serve` may be computed by."""


def export(
    run: str | Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    data: str | Path | None = None,
    out: str | Path | None = None,
    max_drop: float | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write a run's model as one file for other programs, if it answers as the model does.

    Args:
        run: The folder of a run, or of a model in it.
        to: "onnx", "openvino" or "torch".
        precision: "fp32", "fp16" (weights in half precision) or "int8" (calibrated on training pictures).
        data: Where the run's data are now; None takes the path that the run remembers.
        out: The folder to write; None takes RUN/exports/TO-PRECISION.
        max_drop: Percentage points of accuracy that may be lost. None: none and no other answer for fp32, else 1.
        reporter: Who is told where the work is; None tells nobody.

    Returns the certificate with the `folder`. Raises ExportError with the reason when the export is refused,
    SettingsError and MissingExtraError for a kind that cannot be written here, RunError and DataError when the run's
    judged pictures cannot be found again.
    """
    from headstart import sealed
    from headstart.ship import export as making
    from headstart.ship.model import find_model_folder, load

    making.check_kind(to, precision)
    told, place, home = reporter or Silent(), find_model_folder(run), sealed.run_of(run)
    target = Path(out).expanduser() if out is not None else _exports(place, home) / f"{to}-{precision}"
    files.check_writable(target)
    model, found = load(place), sealed.read_sealed(home, data)
    own = place.resolve() == (home / "model").resolve() and found.held_out
    judged = making.Judged(found.items, found.labels, found.probabilities if own else None)
    seen = model.facts.get("seen", ())
    training = sealed.training_items(found, seen, most=making.ITEMS) if precision == "int8" else []
    payload, certificate = making.export_model(
        model, judged, to=to, precision=precision, training=training, max_drop=max_drop, reporter=told
    )
    weights = (place / "model.safetensors", place / "head.safetensors")
    certificate["model"] = {
        "sha256": files.read_json(place / "headstart.json")["sha256"],
        "architecture": model.card.architecture,
        "bytes": sum(file.stat().st_size for file in weights),
    }
    certificate["data"] = {"path": found.dataset.path, "held_out": found.held_out}
    making.write_export(target, payload, certificate)
    _tell(home)
    return {"folder": str(target), **certificate}


def _exports(place: Path, home: Path) -> Path:
    """Where the exports of a model folder go: those of the run's own model beside it."""
    return (home if place.resolve() == (home / "model").resolve() else place) / "exports"


def _tell(home: Path) -> None:
    """Put the exports of a run into its report, where it has one."""
    from headstart.report.exports import exports_section
    from headstart.report.page import with_section
    from headstart.ship.exported import read_certificate

    page = home / "report.html"
    if not page.is_file():
        return
    certificates = [read_certificate(file.parent) for file in sorted((home / "exports").glob("*/certificate.json"))]
    text = page.read_text(encoding="utf-8")
    files.write_text(page, with_section(text, "exports", "Exports", exports_section(certificates)))


def answering(
    run: str | Path, engine: str = "auto", *, device: str = "auto", reporter: Reporter | None = None
) -> Model | ExportedModel:
    """What answers for a run, a model or an export: see api.predict. An export is named to the reporter."""
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}", remedy=did_you_mean(engine, list(ENGINES)))
    if device not in ("auto", "cpu"):
        if engine not in ("auto", "torch"):
            raise SettingsError(
                f"an export computes on the CPU, and the device is {device}", remedy="Use --engine torch."
            )
        engine = "torch"
    from headstart.ship.exported import find_export, open_export, read_certificate

    folder = find_export(run, None if engine == "auto" else engine) if engine != "torch" else None
    if folder is not None and (engine == "auto" or read_certificate(folder)["export"]["to"] == engine):
        opened = open_export(folder)
        (reporter or Silent()).note(f"answered by {opened.engine} in {opened.precision}, from {folder}")
        return opened
    if engine not in ("auto", "torch"):
        raise ModelError(
            f"no {engine} export of this model",
            where=run,
            remedy="Download the repository and give its folder, if there is an export in it."
            if str(run).startswith("hf-hub:")
            else f"Make one with: headstart export {run} --to {engine}",
        )
    from headstart.sources._importing import uncollected

    with uncollected():
        from headstart.ship.model import load
        from headstart.transfer.kernels import steady_memory

    steady_memory()
    return load(run).to(device)


# --- explaining and serving ----------------------------------------------------------------------------------------


def explain(
    run: str | Path,
    files: Any,
    out: str | Path | None = None,
    *,
    data: Any = None,
    neighbours: bool = True,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """What each answer of a run's model rests on: where it looked, what would flip it, the training pictures like it.

    Args:
        run: The folder of a run or of a model.
        files: Files, folders, PIL images or arrays, one or a list; the explanations keep their order.
        out: The folder to write explain.html and explain.json into; None writes nothing.
        data: Where the run's data are now; None takes the place that the run recorded.
        neighbours: Look for the training pictures most like each one; where they are gone a note says so.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".
        reporter: Who is told where the work is; None tells nobody.

    Returns for each picture what `predict` gives and `runner_up`, `margin`, `looked_at`, `covered`, `flip` and
    `neighbours`. Raises ModelError when the model cannot be opened, DataError when a path does not exist, or when
    `data` are given and are not the run's.
    """
    from headstart.sources._importing import uncollected

    with uncollected():
        from headstart.ship.answers import items_of
        from headstart.ship.explaining import explain_items, write_explanations
        from headstart.ship.model import load

    model, told = load(run).to(device), reporter or Silent()
    items = items_of(files)
    bank = _neighbours(model, run, data, told)[0] if neighbours else None
    found = explain_items(model, items, neighbours=bank, reporter=told)
    if out is not None:
        write_explanations(Path(out).expanduser(), found)
    return [one.facts for one in found]


def serve(
    run: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Sequence[str] = (),
    data: Any = None,
    neighbours: bool = True,
    engine: str = "auto",
    reporter: Reporter | None = None,
) -> None:
    """Answer over HTTP until Ctrl-C or SIGTERM: a page at /, answers at /predict (docs/serve.md).

    Args:
        run: The folder of a run or of a model.
        host: The address to listen on; by default only this machine can connect.
        port: The port; 0 takes a free one.
        allow_hosts: Names by which the server may be called, besides addresses and localhost.
        data: Where the run's data are now, for the nearest training pictures; None: where the run recorded them.
        neighbours: Show the nearest training pictures, to whoever can connect.
        engine: What computes the answers, as for api.predict; maps and neighbours are torch's, on a GPU where there
            is one.
        reporter: Who is told the address; None tells nobody.

    Raises ModelError when the model cannot be opened or was not exported, SettingsError when nothing can listen there,
    and MissingExtraError without FastAPI and uvicorn.
    """
    from importlib.util import find_spec

    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "headstart serve")
    from headstart.ship.model import Model, load
    from headstart.ship.serve.app import create_app
    from headstart.ship.serve.limits import Limits
    from headstart.ship.serve.server import listening, server_for
    from headstart.ship.serve.service import Service

    told, limits = reporter or Silent(), Limits()
    with listening(host, port) as sock:
        answerer = answering(run, engine, reporter=told)
        model = answerer if isinstance(answerer, Model) else load(run).to("auto")
        bank, without = _neighbours(model, run, data, told) if neighbours else (None, "they were not asked for")
        service = Service(model, run, answerer=answerer, neighbours=bank, without=without, most_pixels=limits.pixels)
        app = create_app(service, limits=limits, hosts=[*allow_hosts, host])
        at = _address(sock.getsockname())
        if host not in ("127.0.0.1", "localhost", "::1"):
            told.note(
                "whoever can reach this machine can use the model" + (" and see training pictures" if bank else "")
            )
        ready = partial(told.say, f"{run} answers at {at} until Ctrl-C")
        server_for(app, limits, ready=ready).run(sockets=[sock])
    told.say("stopped")


def _address(name: tuple[Any, ...]) -> str:
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _neighbours(model: Model, run: str | Path, data: Any, reporter: Reporter) -> tuple[Neighbours | None, str]:
    """The training pictures, or None and why there are none: only data that were named must be there."""
    from headstart import sealed
    from headstart.data.facts import load_data
    from headstart.ship.neighbours import find_neighbours

    try:
        dataset = sealed.read_data(sealed.run_of(run)) if data is None else load_data(data, fewest=1)
        return find_neighbours(model, dataset, reporter=reporter), ""
    except (DataError, RunError) as error:
        if data is not None:
            raise
        reporter.note(f"no nearest training pictures: {error}")
        return None, error.what
