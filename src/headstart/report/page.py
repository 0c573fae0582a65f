"""A run's record as one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.report.picture import Picture

__all__ = ["render"]

_HERE = Path(__file__).parent


def render(run: Mapping[str, Any], *, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Write a run's record (run.json as a mapping) as one self-contained HTML page.

    `pictures["sample"]` shows the data and `pictures["errors"]` the most confident errors; both may be missing,
    and so may any part of the record: its section is left out.
    """
    import jinja2
    from markupsafe import Markup

    from headstart.report.view import view
    from headstart.report.words import clean

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else "" if value is None else clean(value),
    )
    style = Markup((_HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(style=style, **view(run, pictures))
