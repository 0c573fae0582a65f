"""The verb that sends a finished run's model to the Hub. No logic."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from headstart._cli_options import Json, Quiet, print_json
from headstart.progress import reporter_for

__all__ = ["push"]


def push(
    run: Annotated[Path, typer.Argument(help="Run folder; RUN/model leaves its exports here.", metavar="RUN")],
    repository: Annotated[
        str, typer.Argument(help="Where to on the Hub: OWNER/NAME or OWNER/NAME@BRANCH.", metavar="OWNER/NAME")
    ],
    *,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; default: private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and the card; the Hub is not asked.")
    ] = False,
    watts: Annotated[float, typer.Option(min=0, help="Watts of a busy core, for the card's estimate.")] = 12.0,
    carbon: Annotated[
        float, typer.Option(min=0, help="Grams of CO2 a kWh, for the card's estimate; default: the world's average.")
    ] = 475.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Send the model, its card and its exports to the Hugging Face Hub, as whom HF_TOKEN or `hf auth login` says."""
    pushing = import_module("headstart.pushing")
    made = pushing.push(
        run, repository, private=not public, dry_run=dry_run, watts=watts, carbon=carbon,
        reporter=reporter_for(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(made)
    elif not quiet:
        from headstart import _console_shipping

        _console_shipping.pushed(made)
