"""A run's record as one HTML file that needs no network and no script."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.report.picture import Picture

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

__all__ = ["environment", "render", "style", "with_section"]

_HERE = Path(__file__).parent


def render(run: Mapping[str, Any], *, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Write a run's record (run.json as a mapping) as one self-contained HTML page.

    `pictures["sample"]` shows the data and `pictures["errors"]` the most confident errors; both may be missing,
    and so may any part of the record: its section is left out.
    """
    from headstart.report.view import view

    return environment().get_template("report.html.j2").render(style=style(), **view(run, pictures))


def with_section(page: str, name: str, title: str, section: str) -> str:
    """A written page with one section more, or anew: `section` is its HTML, with the id `name`; "" takes it away.

    So what is made of a run later can be told without its pictures. It stands before "How it was made".
    """
    place, entry = re.escape(name), f'<li><a href="#{name}">{html.escape(title)}</a></li>\n'
    page = re.sub(rf'<section id="{place}".*?</section>\n*', "", page, flags=re.DOTALL)
    page = re.sub(rf'<li><a href="#{place}">.*?</li>\n', "", page)
    if not section:
        return page
    page = page.replace('<li><a href="#made">', f'{entry}<li><a href="#made">', 1)
    return page.replace('<section id="made"', f'{section.strip()}\n\n<section id="made"', 1)


def style() -> Markup:
    """The style of every page."""
    from markupsafe import Markup

    return Markup((_HERE / "report.css").read_text(encoding="utf-8"))


def environment() -> jinja2.Environment:
    """The templates; whatever they write is escaped, and names are made harmless."""
    import jinja2
    from markupsafe import Markup

    from headstart.report.words import clean

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else "" if value is None else clean(value),
    )
