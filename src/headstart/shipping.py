"""From a finished run to something deployed: the verbs beside those of api.

Every verb leaves the run's own files as they are, but for report.html, which tells of what was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import files
from headstart.errors import ModelError, SettingsError, did_you_mean
from headstart.progress import Reporter, Silent

if TYPE_CHECKING:
    from headstart.ship.exported import ExportedModel
    from headstart.ship.model import Model

__all__ = ["ENGINES", "answering", "export"]

ENGINES = ("auto", "torch", "onnx", "openvino")
"""What `predict` may be computed by."""


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


def answering(run: str | Path, engine: str = "auto", *, reporter: Reporter | None = None) -> Model | ExportedModel:
    """What answers for a run, a model or an export: see api.predict. An export is named to the reporter."""
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}", remedy=did_you_mean(engine, list(ENGINES)))
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
            remedy=f"Make one with: headstart export {run} --to {engine}",
        )
    from headstart.sources._importing import uncollected

    with uncollected():
        from headstart.ship.model import load

    return load(run)
