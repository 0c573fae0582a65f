"""A run's record made readable: one HTML file for people, Markdown, a model card. No torch."""

from __future__ import annotations

from headstart.report.card import Shared, model_card
from headstart.report.markdown import to_markdown
from headstart.report.page import render
from headstart.report.picture import Picture

__all__ = ["Picture", "Shared", "model_card", "render", "to_markdown"]
