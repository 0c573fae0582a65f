"""Every error that headstart raises on purpose.

HeadstartError                 something went wrong that we foresaw
├── UserError                  the user's to mend: one message (what, which file, what to do), exit code 2
│   ├── DataError              the data folder, manifest or list cannot be used
│   ├── SourceError            the pretrained network cannot be found, read or trusted
│   ├── SettingsError          an option is unknown, out of range or contradicts another
│   ├── OutputError            the output folder cannot be written, is taken or is held by another run
│   ├── RunError               a run folder is missing, unfinished or not one of ours
│   ├── ModelError             a model folder is missing, damaged or of a newer format
│   ├── ExportError            an export is refused: it does not answer as the model does
│   ├── HubError               the Hub cannot be reached, or refuses
│   └── MissingExtraError      an optional package is not installed
├── UnreadableImage            one picture cannot be decoded: it is skipped and reported, never replaced
└── Interrupted                stopped by Ctrl-C (130) or SIGTERM (143); the state is saved, `resume` goes on
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "ExportError",
    "HeadstartError",
    "HubError",
    "Interrupted",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "RunError",
    "SettingsError",
    "SourceError",
    "UnreadableImage",
    "UserError",
    "did_you_mean",
]


_LONGEST = 2_000  # letters of a message: a name in it may be of any length


def _one_line(text: str) -> str:
    """`text` of a library or a person without its line breaks, and cut where it would fill a page."""
    line = " ".join(str(text).split()) if any(mark in str(text) for mark in "\n\r\t") else str(text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _escaped(name: object) -> str:
    """A file's name with its line breaks written out: it must stay recognisable."""
    return str(name).replace("\n", "\\n").replace("\r", "\\r")


class HeadstartError(Exception):
    """Something went wrong that we foresaw."""


class UserError(HeadstartError):
    """The user can mend this: the message says what, which file and what to do."""

    def __init__(self, what: str, *, where: object = None, remedy: str = "") -> None:
        self.what, self.where, self.remedy = _one_line(what), where, _one_line(remedy)
        place = f" [{_escaped(where)}]" if where is not None else ""
        super().__init__(f"{self.what}{place}{'. ' + self.remedy if remedy else ''}")


class DataError(UserError):
    """The data folder, manifest or list cannot be used."""


class SourceError(UserError):
    """The pretrained network cannot be found, read or trusted."""


class SettingsError(UserError):
    """An option is unknown, out of range or contradicts another."""


class OutputError(UserError):
    """The output folder cannot be written, is taken or is held by another run."""


class RunError(UserError):
    """A run folder is missing, unfinished or not one of ours."""


class ModelError(UserError):
    """A model folder is missing, damaged or of a newer format."""


class ExportError(UserError):
    """An export is refused: it does not answer as the model does."""


class HubError(UserError):
    """The Hub cannot be reached, or refuses."""


class MissingExtraError(UserError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._made_of = (package, extra, purpose)
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            remedy=f"Install it with: pip install 'headstart[{extra}]'",
        )

    def __reduce__(self) -> tuple[object, ...]:
        """How to send the error to another process."""
        return type(self), self._made_of


class UnreadableImage(HeadstartError):
    """One picture cannot be decoded; `reason` says why in a few words."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, _one_line(reason)
        super().__init__(f"{_escaped(name)}: {self.reason}")

    def __reduce__(self) -> tuple[object, ...]:
        """How to send the error to another process."""
        return type(self), (self.name, self.reason)


class Interrupted(HeadstartError):
    """The run was stopped from outside after its state was saved."""

    def __init__(self, exit_code: int, resume_command: str) -> None:
        self.exit_code, self.resume_command = exit_code, resume_command
        super().__init__(f"interrupted; go on with: {resume_command}")

    def __reduce__(self) -> tuple[object, ...]:
        """How to send the error to another process."""
        return type(self), (self.exit_code, self.resume_command)


def did_you_mean(name: str, known: list[str]) -> str:
    """Say which known names are near `name`, or list a few that exist."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if not known:
        return "None are known"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"Known: {shown}"
