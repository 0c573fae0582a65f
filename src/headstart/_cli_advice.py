"""The verbs that advise before a run: sources and advise. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart._cli_options import Data, Json, Quiet, all_but, api, print_json, settings_of, with_settings
from headstart.errors import SettingsError
from headstart.progress import reporter_for

__all__ = ["advise", "sources"]

_MACHINE = ("device", "precision", "engine", "workers", "threads", "cache", "cache_size")
_LOOKING = ("image_size", "pooling", "val_fraction", "test_fraction", "folds", "seed", *_MACHINE)
Items = Annotated[
    int, typer.Option(min=2, help="Look at so many training pictures at most, the classes in proportion.")
]


@with_settings(without=all_but(*_LOOKING))
def sources(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Folders of sources, and data to rank them on.", metavar="[PATHS]...")
    ] = None,
    *,
    everything: Annotated[
        str | None,
        typer.Option("--all", metavar="PATTERN", help="All known addresses like PATTERN, for example 'timm:*vit*'."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Rank these, with commas between them; default: all that are listed."),
    ] = None,
    items: Items = 2_000,
    quiet: Quiet = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """List the pretrained networks that can be used now, without a network; --all lists every known name.

    With data among the paths, rank the sources by how well their features fit the training pictures. A folder with a
    config.json in it, or one level below, holds sources; any other path is data.
    """
    from headstart import console

    folders = [path for path in paths or () if _holds_sources(path)]
    data = [path for path in paths or () if path not in folders]
    if len(data) > 1:
        raise SettingsError(f"give one data set to rank sources on, not {len(data)}: {', '.join(map(str, data))}")
    if not data and source is not None:
        raise SettingsError("--source belongs to data", remedy="For example headstart sources DATA --source A,B")
    if data and everything is not None:
        raise SettingsError("--all lists names, and data rank sources: give one of the two")
    if data:
        named = [name.strip() for name in source.split(",") if name.strip()] if source is not None else None
        settings, reporter = settings_of(options), reporter_for(quiet=quiet)
        words = {"folders": tuple(folders), "items": items, "settings": settings, "reporter": reporter}
        rows = api().rank_sources(str(data[0]), named, **words)
    else:
        rows = api().sources(tuple(folders), pattern=everything)
    if as_json:
        print_json(rows)
    elif data:
        console.ranking(rows, data[0])
    else:
        console.sources(rows)


def _holds_sources(path: Path) -> bool:
    folder = path.expanduser()
    return (folder / "config.json").is_file() or any(folder.glob("*/config.json"))


@with_settings(without=all_but("source", "weights", *_LOOKING))
def advise(data: Data, *, items: Items = 2_000, quiet: Quiet = False, as_json: Json = False, **options: Any) -> None:
    """Say where the data stand: how many, how like the source's own, and which strategy that suggests."""
    found = api().advise(data, items=items, settings=settings_of(options), reporter=reporter_for(quiet=quiet))
    if as_json:
        print_json(found)
    else:
        from headstart import console

        console.advice(found)
