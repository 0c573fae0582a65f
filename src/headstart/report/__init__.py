"""A run's record made readable: one HTML file for people, Markdown for model cards. No torch."""

from __future__ import annotations

from headstart.report.markdown import to_markdown
from headstart.report.page import render
from headstart.report.picture import Picture

__all__ = ["Picture", "render", "to_markdown"]
