"""The verbs that make something of a finished run: export. No logic."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from headstart._cli_options import Json, Quiet, print_json, shipping
from headstart.progress import reporter_for

__all__ = ["Engine", "export"]


class Kind(enum.StrEnum):
    """What `export` can write."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"


class Precision(enum.StrEnum):
    """The number formats of an export."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Engine(enum.StrEnum):
    """What `predict` can be computed by."""

    auto = "auto"
    torch = "torch"
    onnx = "onnx"
    openvino = "openvino"


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder in one.", metavar="RUN")],
    *,
    to: Annotated[Kind, typer.Option(help="onnx, openvino or torch.", metavar="WORD")] = Kind.onnx,
    precision: Annotated[
        Precision,
        typer.Option(
            help="fp32, fp16 (weights in half precision) or int8 (ranges from training pictures).", metavar="WORD"
        ),
    ] = Precision.fp32,
    data: Annotated[str | None, typer.Option(help="Where the run's data are, if they have moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: RUN/exports/TO-PRECISION.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="Points of accuracy that may be lost; default: none and no other answer for fp32, else 1.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the model as one file that takes pictures of any size, judged on sealed pictures before it is written."""
    reporter = reporter_for(quiet=quiet)
    words = {"to": to.value, "precision": precision.value, "data": data, "out": out, "max_drop": max_drop}
    made = shipping().export(run, **words, reporter=reporter)
    if as_json:
        print_json(made)
    elif not quiet:
        from headstart import console

        console.exported(made)
