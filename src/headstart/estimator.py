"""TransferClassifier: headstart behind scikit-learn's contract, for pipelines and grid searches.

X is a list of pictures: paths, PIL images or arrays (H×W, H×W×3), or one array (n, H, W[, 3]). A numeric table (n, d)
is taken as features already, from headstart or from elsewhere: then no source runs and only the head is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from headstart.errors import DataError, SettingsError
from headstart.settings import DEFAULT_SOURCE, Settings

if TYPE_CHECKING:
    from headstart.records import Dataset
    from headstart.ship.model import Model
    from headstart.transfer.heads import FittedHead

__all__ = ["TransferClassifier"]


class TransferClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify pictures by transfer from a pretrained source; the same as a scikit-learn estimator.

    Args:
        source: The pretrained network: timm:NAME, torchvision:NAME, random:NAME, toy or a folder.
        strategy: Way of transferring; "frozen" trains the head alone.
        head: What turns features into classes: linear, mlp, svm, ridge, knn or auto.
        pooling: How the feature map becomes one vector: native, avg, flatten or avgmax.
        epochs: Epochs of a fine-tuning; None takes them from the amount of data.
        random_state: Seed of every random choice; None is 0.
        options: Any other field of Settings by name, for example {"batch_size": 16}.

    After `fit`: `classes_` the labels in order, `model_` the Model (pictures) or `head_` the fitted head (a table of
    features), `n_features_in_` the width of a table. Nothing is held back for a test: use cross_val_score, or
    `headstart.fit`.
    """

    def __init__(
        self,
        source: str = DEFAULT_SOURCE,
        *,
        strategy: str = "frozen",
        head: str = "linear",
        pooling: str = "native",
        epochs: int | None = None,
        random_state: Any = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.source = source
        self.strategy = strategy
        self.head = head
        self.pooling = pooling
        self.epochs = epochs
        self.random_state = random_state
        self.options = options

    def fit(self, X: Any, y: Any) -> Self:
        """Train on pictures or on a table of features, with labels `y` (n,).

        Raises DataError for pictures that cannot be read, SettingsError for options, ValueError as scikit-learn asks.
        """
        settings = self._settings()
        if _is_table(X):
            if settings.strategy not in ("frozen", "auto"):
                raise SettingsError(
                    f"a table of features has no network to train by the strategy {settings.strategy}",
                    remedy="Give pictures, or the strategy frozen.",
                )
            X, y = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
            labels = self._labels(y)
            self.head_ = self._fit_head(X, labels, settings)
            return self
        labels = self._labels(y)
        self.__dict__.pop("n_features_in_", None)
        pictures = list(X)
        if len(pictures) != len(labels):
            raise ValueError(f"X has {len(pictures)} pictures and y {len(labels)} labels")
        self.model_: Model = self._fit_pictures(pictures, labels, settings)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, classes), columns in the order of `classes_`."""
        from headstart.ship.model import softmax

        check_is_fitted(self, "classes_")
        if hasattr(self, "head_"):
            return softmax(self.head_.logits(validate_data(self, X, dtype=np.float32, reset=False)))
        chances = self.model_.predict_proba(list(X))
        if np.isnan(chances).any():
            lost = int(np.isnan(chances).any(axis=1).sum())
            raise DataError(
                f"{lost} of {len(chances)} pictures cannot be read", remedy="Look with `headstart inspect`."
            )
        return chances

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label for each picture or row (n,)."""
        chances = self.predict_proba(X)
        answers: np.ndarray = self.classes_[chances.argmax(axis=1)]
        return answers

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _settings(self) -> Settings:
        named = {
            "source": self.source, "strategy": self.strategy, "head": self.head, "pooling": self.pooling,
            "epochs": self.epochs, "seed": self._seed(),
        }  # fmt: skip
        twice = sorted(set(named) & set(self.options or {}))
        if twice:
            own = ", ".join("random_state" if name == "seed" else name for name in twice)
            raise SettingsError(f"options repeats {', '.join(twice)}", remedy=f"Give it as the parameter {own}.")
        return Settings.of(**named, **dict(self.options or {}))

    def _seed(self) -> int:
        """`random_state` as a number; one drawn from it where it is a generator, as scikit-learn does."""
        if self.random_state is None or isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state or 0)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _labels(self, y: Any) -> np.ndarray:
        """Class numbers for `y`; sets `classes_`."""
        from sklearn.utils import column_or_1d

        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier can't train when only one class is present.")
        for name in ("head_", "model_"):
            self.__dict__.pop(name, None)
        return np.asarray(numbers, dtype=np.int64)

    def _fit_head(self, X: np.ndarray, labels: np.ndarray, settings: Settings) -> FittedHead:
        from headstart.transfer.heads import fit_head

        kind = "linear" if settings.head == "auto" else settings.head
        return fit_head(kind, X, labels, n_classes=len(self.classes_), seed=settings.seed, folds=settings.folds)

    def _fit_pictures(self, pictures: Sequence[Any], labels: np.ndarray, settings: Settings) -> Model:
        from headstart.progress import Silent
        from headstart.record import bare_model
        from headstart.stages import make_plan, prepare, train_candidate
        from headstart.transfer.interrupt import Stop

        dataset = _split(pictures, labels, [str(name) for name in self.classes_], settings)
        bench = prepare(dataset, settings=settings, reporter=Silent(), stop=Stop(), sealed=True)
        if bench.facts.skipped:
            first = bench.facts.skipped[0]
            raise DataError(
                f"{len(bench.facts.skipped)} training pictures cannot be read, such as {first.file}: {first.reason}",
                remedy="Leave them out of X and y.",
            )
        candidate = train_candidate(bench, make_plan(bench, settings), settings=settings, folder=None)
        return bare_model(bench, candidate)


def _is_table(X: Any) -> bool:
    """Whether X is rows of numbers (or what scikit-learn's own check should refuse), not pictures."""
    if hasattr(X, "__dataframe__") or hasattr(X, "toarray"):
        return True
    if hasattr(X, "__array__") and not isinstance(X, np.ndarray):
        X = np.asarray(X)
    if isinstance(X, (list, tuple)):
        first = X[0] if X else 0.0
        if not isinstance(first, (list, tuple, int, float, complex, np.number)):
            return False
    if isinstance(X, np.ndarray) and X.dtype.kind in "OUS" and X.size:
        first = X.flat[0]
        return isinstance(first, (int, float, complex, dict)) or (X.ndim == 2 and X.dtype.kind != "O")
    return np.ndim(X) < 3


def _split(pictures: Sequence[Any], labels: np.ndarray, classes: list[str], settings: Settings) -> Dataset:
    """The pictures as a Dataset in memory: all for training, with a validation part where epochs are chosen on one."""
    from headstart.data.read import read
    from headstart.data.splits import folds

    dataset = read(list(pictures), labels=[f"{n:09d}" for n in labels])
    held: set[int] = set()
    if settings.strategy != "frozen":
        part = folds(labels, k=max(2, round(1 / settings.val_fraction)), seed=settings.seed)[0]
        learnt = set(labels[part[0]].tolist())  # a class with one picture needs it for training
        held = {int(n) for n in part[1] if int(labels[n]) in learnt}
    items = tuple(replace(item, split="val" if n in held else "train") for n, item in enumerate(dataset.items))
    return replace(dataset.with_items(items), classes=tuple(classes))
