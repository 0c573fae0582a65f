"""Where the rows of one source and cut are kept, and which engine computes more of them.

features/XX/SOURCE/ENGINE/VIEW/ holds the rows: SOURCE is the hash of everything that the weights, the preprocessing and
the cut decide, ENGINE what computed them, VIEW the hash of view and dtype. The rows of a run come from one engine: the
one whose rows are kept, as long as it can be had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote
from weakref import ref

import numpy as np
from torch import Tensor, nn

from headstart import files
from headstart.data import augment
from headstart.data.augment import View
from headstart.data.store import ArrayStore, Found
from headstart.errors import SourceError
from headstart.records import plain
from headstart.sources.base import Source
from headstart.sources.cutting import cut_source
from headstart.transfer.runner import Runner, RunnerChoice, filled, pick_runner, reopen_runner

__all__ = ["Choice", "Pass", "Runners", "Shelf", "harmless", "row_key", "source_key"]

_FORMAT = 2
_HARMLESS = 1e-3  # of the largest value of a row: below what bfloat16 (4e-3) does, above float16's own half step (5e-4)


class Runners:
    """What the passes of one run share: engines, dtypes and the hashes of weights, which must not change meanwhile."""

    def __init__(self) -> None:
        self._weights: dict[str, tuple[ref[Source], str]] = {}
        self.opened: dict[tuple[str, int], Runner] = {}
        self.identities: dict[str, str] = {}
        self.dtypes: dict[tuple[str, str], str] = {}  # (source, what was asked for) → what it became

    def hash_below(self, source: Source, cut: str) -> str:
        """The source's own, computed once."""
        known = self._weights.get(cut)
        if known is None or known[0]() is not source:
            known = self._weights[cut] = ref(source), source.hash_below(cut)
        return known[1]


@dataclass(frozen=True, slots=True)
class Pass:
    """How features are computed: what shapes a row (pooling, cut, view, precision, kind of device), and the rest.

    `cut` is "head" (pooled features) or the name of the first block above (the activations that enter it, flat).
    `dtype` is how rows are kept: float32, or float16 where that is measured harmless. `expected` rows will be asked for
    later: a slow start of an engine may pay for them. `bound` is how much may be kept on disk in all.
    """

    pooling: str = "native"
    view: View = View()  # noqa: RUF009 - a frozen value
    device: str = "cpu"
    workers: int | None = None
    batch_size: int = 32
    cut: str = "head"
    dtype: str = "float32"
    engine: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    expected: int = 0
    bound: str | int | None = None
    runners: Runners = field(default_factory=Runners, compare=False)


def source_key(source: Source, how: Pass) -> dict[str, object]:
    """Everything besides the picture, the view and the engine that shapes a row (devices of one kind compute alike)."""
    import PIL

    return {
        "format": _FORMAT,
        "views": augment.VERSION,
        "pillow": PIL.__version__.split(".")[0],
        "weights": how.runners.hash_below(source, how.cut),
        "architecture": source.card.architecture,
        "model_args": dict(source.card.model_args),
        "preprocessing": source.card.preprocessing,
        "cut": how.cut,
        "pooling": how.pooling if how.cut == "head" else "",
        "device": how.device.partition(":")[0],
        "precision": how.precision,
    }


def row_key(source: Mapping[str, object], *, engine: str, view: View, dtype: str) -> dict[str, object]:
    """The whole key of a row but for the picture."""
    return {**source, "engine": engine, "view": plain(view), "dtype": dtype}


def harmless(rows: np.ndarray) -> float:
    """The largest error that rounding `rows` (n, width) to float16 makes, as a share of its row's largest value.

    inf where a value is too large for float16. About 5e-4 at most, but for rows of very small numbers.
    """
    with np.errstate(over="ignore"):
        rounded = rows.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        return float("inf")
    largest = np.abs(rows).max(axis=1, initial=0)
    errors = np.abs(rows - rounded).max(axis=1, initial=0)
    shares = np.divide(errors, largest, out=np.zeros_like(errors), where=largest > 0)
    return float(shares.max(initial=0))


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine and a dtype, with what is kept of theirs."""

    identity: str
    dtype: str
    store: ArrayStore
    found: Found


class Shelf:
    """The kept rows of one source and cut, for one view."""

    def __init__(self, source: Source, how: Pass, *, keeping: bool = True) -> None:
        self.source, self.how, self._keeping = source, how, keeping
        self.key = source_key(source, how)
        self.name = files.hash_json(self.key)
        self.folder = files.home() / "features" / self.name[:2] / self.name

    def store(self, identity: str, dtype: str) -> ArrayStore:
        """The rows of this engine and dtype."""
        key = row_key(self.key, engine=identity, view=self.how.view, dtype=dtype)
        name = files.hash_json({"view": key["view"], "dtype": dtype})[:32]
        about = {"source": self.source.address}
        folder = self.folder / quote(identity, safe="") / name
        return ArrayStore(key, kind="features", folder=folder, about=about, bound=self.how.bound)

    def choices(self, hashes: Sequence[str], *, only: str | None = None) -> list[Choice]:
        """What is kept already, the best to go on with first: this run's engine, then the one with most of the rows.

        `only` one engine where it is named, whichever was asked for.
        """
        mine, found = self.how.runners.identities.get(self.name), []
        for identity, used in self._engines().items() if only is None else [(only, 0.0)]:
            for dtype in ("float32", "float16") if self.how.dtype == "float16" else ("float32",):
                store = self.store(identity, dtype)
                choice = Choice(identity, dtype, store, store.find(hashes))
                same = self.how.runners.dtypes.get((self.name, self.how.dtype), self.how.dtype) == dtype
                found.append(((identity == mine, int(choice.found.there.sum()), same, used), choice))
        return [choice for _, choice in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def _engines(self) -> dict[str, float]:
        """The engines that have rows of any view, with the time of the last use."""
        found: dict[str, float] = {}
        for path in files.listed(self.folder, "*/*/key.json"):
            identity = unquote(path.parent.parent.name)
            if self.how.engine in ("auto", identity.partition("-")[0]):
                found[identity] = max(found.get(identity, 0.0), _used(path))
        return found

    # --- engines ------------------------------------------------------------------------------------------------

    def opened(self) -> Runner | None:
        """The engine that this run has opened already."""
        return self.how.runners.opened.get((self.name, self.how.batch_size))

    def reopen(self, identity: str, images: Tensor) -> Runner | None:
        """The engine of kept rows; None where this installation cannot give it."""
        known = self.opened()
        if known is not None and known.identity == identity:
            return known
        runner = reopen_runner(
            self._module(), self.source.card, identity=identity, images=self._full(images), how=self._wanted()
        )
        return None if runner is None else self._remember(runner)

    def pick(self, images: Tensor, left: int) -> Runner:
        """The engine for `left` more rows, chosen on real images (n, 3, h, w); this run's where it has one."""
        known = self.opened()
        if known is not None:
            return known
        left += self.how.expected
        runner = pick_runner(self._module(), self.source.card, images=self._full(images), left=left, how=self._wanted())
        return self._remember(runner)

    def use(self, identity: str, dtype: str) -> None:
        """Keep to this engine and dtype for the rest of the run."""
        self.how.runners.identities[self.name] = identity
        self.how.runners.dtypes[self.name, self.how.dtype] = dtype

    def dtype_for(self, rows: np.ndarray) -> tuple[str, float | None]:
        """The dtype to keep rows like these in, and the measured rounding error where it was measured."""
        known = self.how.runners.dtypes.get((self.name, self.how.dtype))
        if self.how.dtype == "float32" or known == "float32":
            return "float32", None
        error = harmless(rows)
        return ("float16" if error <= _HARMLESS else "float32"), error

    def _remember(self, runner: Runner) -> Runner:
        self.how.runners.opened[self.name, self.how.batch_size] = runner
        return runner

    def _wanted(self) -> RunnerChoice:
        how, key = self.how, self.name if self._keeping else ""
        return RunnerChoice(
            engine=how.engine, precision=how.precision, device=how.device, key=key, threads=how.threads, bound=how.bound
        )

    def _module(self) -> nn.Module:
        if self.how.cut == "head":
            return _Pooled(self.source, self.how.pooling)
        told: list[str] = []
        cutting = cut_source(self.source, [b.name for b in self.source.blocks].index(self.how.cut), told=told)
        if cutting is None:
            raise SourceError(
                f"cannot be divided at {self.how.cut}: {told[0]}",
                where=self.source.address,
                remedy="Choose another --cut.",
            )
        return cutting.below

    def _full(self, images: Tensor) -> Tensor:
        """The first images, filled up with copies to a whole batch."""
        return filled(images[: self.how.batch_size], self.how.batch_size)


class _Pooled(nn.Module):
    """Normalised images (n, 3, h, w) → pooled features (n, width)."""

    def __init__(self, source: Source, pooling: str) -> None:
        super().__init__()
        self.source, self.pooling = source, pooling

    def forward(self, images: Tensor) -> Tensor:
        rows: Tensor = self.source(images, self.pooling)
        return rows


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # pruned at this moment
        return 0.0
