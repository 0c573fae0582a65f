"""The verb that makes a smaller network out of a finished run: prune. No logic."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart._cli_options import Json, Quiet, print_json
from headstart.progress import reporter_for

__all__ = ["prune"]


_AIMS = {
    "speedup": ("So many times fewer multiply-adds, for example 2.", "TIMES"),
    "parameters": ("Share of the parameters to keep, for example 0.5.", "SHARE"),
    "max_drop": ("Points of accuracy on validation that may be lost: as small as that allows.", "POINTS"),
    "features": ("Share of the frozen features to keep, for example 0.25; the layers before them stay.", "SHARE"),
}


def _with_aims(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace the **aims of the verb by a flag for each, behind the run."""
    run, *own = (p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD)
    flags = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[float | None, typer.Option(help=told, metavar=metavar)],
        )
        for name, (told, metavar) in _AIMS.items()
    ]  # fmt: skip

    @functools.wraps(verb)
    def wrapped(*args: Any, **options: Any) -> None:
        verb(*args, **options)

    wrapped.__signature__ = inspect.Signature([run, *flags, *own])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [run, *flags, *own]}
    return wrapped


@_with_aims
def prune(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder in one.", metavar="RUN")],
    *,
    data: Annotated[str | None, typer.Option(help="Where the run's data are, if they have moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: RUN/pruned/NAME.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs after the last cut; default: from the number of pictures.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the pictures that the smaller network takes; default: what loses least."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
    **aims: float | None,
) -> None:
    """Cut channels out of the network and train the rest after the whole one; a model of its own beside the run's."""
    verb = import_module("headstart.pruning").prune
    made = verb(
        run, data=data, out=out, epochs=epochs, image_size=image_size, seed=seed, reporter=reporter_for(quiet=quiet),
        **aims,
    )  # fmt: skip
    if as_json:
        print_json(made)
    elif not quiet:
        from headstart import _console_shipping

        _console_shipping.pruned(made)
