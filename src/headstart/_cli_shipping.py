"""The verbs that use a finished run: export, explain and serve. No logic."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from headstart._cli_options import Json, OnDevice, Quiet, print_json, shipping
from headstart.errors import DataError
from headstart.progress import reporter_for

__all__ = ["AnsweredBy", "Engine", "explain", "export", "serve"]


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
    """What answers can be computed by."""

    auto = "auto"
    torch = "torch"
    onnx = "onnx"
    openvino = "openvino"


AnsweredBy = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="torch, onnx, openvino; auto: a certified ONNX export that is faster here, else torch.",
        metavar="WORD",
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="Run folder that fit or compare wrote.", metavar="RUN")]
Moved = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="Where the run's data are now; default: where they were.")
]
Neighbours = Annotated[
    bool, typer.Option("--neighbours/--no-neighbours", help="Look for the training pictures most like each one.")
]


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
        from headstart import _console_shipping

        _console_shipping.exported(made)


def explain(
    run: RunFolder,
    files: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.", metavar="FILES...")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write explain.html and explain.json into.")],
    data: Moved = None,
    neighbours: Neighbours = True,
    device: OnDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show where the model looked, what would flip its answer, and the training pictures most like a picture."""
    reporter = reporter_for(quiet=quiet)
    found = shipping().explain(run, files, out, data=data, neighbours=neighbours, device=device, reporter=reporter)
    if as_json:
        print_json(found)
    elif not quiet:
        from headstart import console

        console.predictions(found)
        console.write(f"\nWhy, with pictures: {out / 'explain.html'}")
    if found and all("error" in one for one in found):
        raise DataError(
            f"none of the {len(found)} files could be read", remedy="Their reasons stand beside their names."
        )


def serve(
    run: RunFolder,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can connect.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which the server may be called; may be given again.")
    ] = None,
    data: Moved = None,
    neighbours: Neighbours = True,
    engine: AnsweredBy = Engine.auto,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP: a page for people at /, JSON for programs at /predict."""
    shipping().serve(
        run, host=host, port=port, allow_hosts=allow_host or (), data=data, neighbours=neighbours,
        engine=engine.value, reporter=reporter_for(quiet=quiet),
    )  # fmt: skip
