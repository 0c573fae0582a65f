"""The verb that teaches a finished run more: extend. No logic."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from headstart._cli_options import Json, Quiet, print_json
from headstart.progress import reporter_for

__all__ = ["extend"]


def extend(
    run: Annotated[Path, typer.Argument(help="Run folder, model folder, or one that extend wrote.", metavar="RUN")],
    data: Annotated[
        str, typer.Argument(help="New pictures: a folder, CSV, TSV, JSONL or Parquet.", metavar="NEW_DATA")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write, empty or new; RUN stays as it is.")],
    old_data: Annotated[
        str | None, typer.Option(help="Where the run's own data are now, if they have moved.", metavar="DATA")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of which new pictures are held back to judge with.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Teach a model new pictures or new classes from what it kept of the old ones, and measure what it forgets."""
    verb = import_module("headstart.extending").extend  # loaded only now
    made = verb(run, data, out=out, old_data=old_data, seed=seed, reporter=reporter_for(quiet=quiet))
    if as_json:
        print_json(made)
    elif not quiet:
        from headstart import _console_shipping

        _console_shipping.extended(made)
