"""A reporter that remembers."""

from __future__ import annotations

from headstart.progress import Silent


class Noting(Silent):
    """Remembers what it was told to say, and what to note."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.notes: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)
