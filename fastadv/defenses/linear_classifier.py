"""The certified linear classifier as an estimator in the manner of scikit-learn."""

import importlib
import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fastadv._checks import Bounds
from fastadv.defenses import linear
from fastadv.defenses.linear_training import fit_lbfgs, fit_sgd

Floats = NDArray[np.float64]


@dataclass(eq=False)
class RobustLinearClassifier:
    """A linear classifier trained for its worst case in an lp ball, which says how far it can be trusted.

    It minimises the mean `fastadv.defenses.linear.robust_loss`; with eps 0 that is logistic regression.
    Arrays go in and come out, everything is computed in float64 on the CPU. It has what scikit-learn's
    `Pipeline`, `GridSearchCV` and `clone` (1.6 or later) ask of a classifier, and does without scikit-learn.

    Args:
        eps: radius of the ball in the units of X, >= 0, that training defends and `robust_score` asks for.
            After a scaler in a pipeline that is the scaled units.
        norm: p of the ball, in [1, inf].
        solver: "lbfgs" finds the minimum (`linear_training.fit_lbfgs`), "sgd" is stochastic gradient descent
            (`linear_training.fit_sgd`).
        l2: weight of ||w||_2^2 / 2 beside the mean loss, >= 0.
        max_iter: iterations per stage of "lbfgs", epochs of "sgd".
        tol: where "lbfgs" stops.
        learning_rate, batch_size, seed: of "sgd".

    Attributes:
        classes_: [K] the labels, sorted.
        coef_: [1, D] for two classes, of which the second is predicted where the decision function is
            positive; [K, D] for K.
        intercept_: [1] or [K].
        n_features_in_: D.

    What does not fit raises ValueError on `fit` and on use, one line that says what was expected.
    """

    eps: float = 0.0
    norm: float = math.inf
    solver: Literal["lbfgs", "sgd"] = "lbfgs"
    l2: float = 0.0
    max_iter: int = 300
    tol: float = 1e-7
    learning_rate: float = 0.1
    batch_size: int = 100
    seed: int = 0

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on X [N, D] with labels y [N] of at least two kinds; numbers as labels must be whole."""
        if self.solver not in ("lbfgs", "sgd"):
            raise ValueError(f"fit: solver must be 'lbfgs' or 'sgd', got {self.solver!r}")
        x = self._samples("fit", X)
        given = self._labels("fit", y, len(x))
        if (given != given).any():
            raise ValueError("fit: y must not be NaN")
        if given.dtype.kind == "f" and not (given == np.floor(given)).all():
            raise ValueError(
                f"fit: y must be classes, not continuous values, got {given[given != np.floor(given)][0]}"
            )
        self.classes_, index = np.unique(given, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"fit: y must have at least 2 classes, got {len(self.classes_)}")
        two = len(self.classes_) == 2
        labels = torch.from_numpy(index)
        if two:
            labels = 2 * labels - 1
        shared: dict[str, Any] = {
            "eps": self.eps,
            "norm": self.norm,
            "classes": None if two else len(self.classes_),
            "l2": self.l2,
        }
        if self.solver == "lbfgs":
            w, b = fit_lbfgs(x, labels, max_iter=self.max_iter, tol=self.tol, **shared)
        else:
            w, b = fit_sgd(
                x,
                labels,
                epochs=self.max_iter,
                learning_rate=self.learning_rate,
                batch_size=self.batch_size,
                seed=self.seed,
                **shared,
            )
        self.coef_: Floats = w.reshape(-1, x.shape[1]).numpy()
        self.intercept_: Floats = b.reshape(-1).numpy()
        self.n_features_in_ = x.shape[1]
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """<w, x> + b: [N] for two classes, positive for the second; [N, K] for K."""
        x = self._samples("decision_function", X, fitted=True)
        values: Floats = x.numpy() @ self.coef_.T + self.intercept_
        return values[:, 0] if len(self.classes_) == 2 else values

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """[N] labels."""
        values = self.decision_function(X)
        return self.classes_[(values > 0).astype(int) if values.ndim == 1 else values.argmax(1)]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy, of samples that count for `sample_weight` [N] (None: all for the same).

        A label that `fit` has not seen counts as a mistake.
        """
        predicted = self.predict(X)
        right = predicted == self._labels("score", y, len(predicted))
        if sample_weight is None:
            return float(np.mean(right))
        weight = np.asarray(sample_weight, dtype=np.float64)
        if (
            weight.shape != right.shape
            or not (np.isfinite(weight) & (weight >= 0)).all()
            or weight.max() == 0
        ):
            raise ValueError(
                f"score: sample_weight must be [{len(right)}] numbers of at least 0, not all of them 0, "
                f"got {weight.tolist() if weight.size < 5 else f'shape {list(weight.shape)}'}"
            )
        return float(np.average(right, weights=weight))

    def certify(self, X: ArrayLike, y: ArrayLike | None = None, *, bounds: Bounds = None) -> Floats:
        """[N] exact distances, in `norm`, to the nearest point that is not classified as y.

        `fastadv.defenses.linear.certify`; without y, that is to the nearest point of another class than the
        predicted one.
        """
        x = self._samples("certify", X, fitted=True)
        w, b = self._weights()
        labels = self._index("certify", self.predict(X) if y is None else y, len(x))
        return linear.certify(w, b, x, labels, self.norm, bounds=bounds).numpy()

    def robust_score(
        self, X: ArrayLike, y: ArrayLike, eps: ArrayLike | None = None, *, bounds: Bounds = None
    ) -> float:
        """Accuracy in the worst case: the part of the samples certified beyond eps.

        eps is a number or [N]; None: the own eps.
        """
        radii = self._radii("robust_score", eps, len(self._samples("robust_score", X, fitted=True)))
        return float(np.mean(self.certify(X, y, bounds=bounds) > radii))

    def worst_case(
        self, X: ArrayLike, y: ArrayLike, eps: ArrayLike | None = None, *, bounds: Bounds = None
    ) -> Floats:
        """[N, D] the strongest perturbations within eps; see `linear.worst_case`.

        eps is a number or [N]; None: the own eps.
        """
        x = self._samples("worst_case", X, fitted=True)
        w, b = self._weights()
        labels = self._index("worst_case", y, len(x))
        radii = torch.from_numpy(self._radii("worst_case", eps, len(x)))
        return linear.worst_case(w, b, x, labels, radii, self.norm, bounds=bounds).numpy()

    def module(self) -> nn.Module:
        """The classifier for attacks: [B, ...] float64 -> logits [B, K], in the order of `classes_`."""
        if not self.__sklearn_is_fitted__():
            raise ValueError("module: RobustLinearClassifier must be fitted first: call fit")
        return linear.linear_model(*self._weights())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name; there are no nested estimators, so `deep` changes nothing."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Change settings; ValueError for one that there is not."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"set_params: no setting {name!r}: there are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Whether `fit` has run, for scikit-learn."""
        return hasattr(self, "coef_")

    def __sklearn_tags__(self) -> Any:
        """What kind of estimator this is; called by scikit-learn, so it is there."""
        utils = importlib.import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="classifier",
            target_tags=utils.TargetTags(required=True),
            classifier_tags=utils.ClassifierTags(),
        )

    def _weights(self) -> tuple[Tensor, Tensor]:
        w, b = torch.from_numpy(self.coef_), torch.from_numpy(self.intercept_)
        return (w[0], b[0]) if len(self.classes_) == 2 else (w, b)

    def _samples(self, name: str, X: ArrayLike, *, fitted: bool = False) -> Tensor:
        if fitted and not self.__sklearn_is_fitted__():
            raise ValueError(f"{name}: RobustLinearClassifier must be fitted first: call fit")
        x = np.array(X, dtype=np.float64)
        if x.ndim != 2 or x.size == 0:
            raise ValueError(f"{name}: X must be [N, D] with N and D at least 1, got shape {list(x.shape)}")
        if fitted and x.shape[1] != self.n_features_in_:
            raise ValueError(f"{name}: X must have {self.n_features_in_} columns as in fit, got {x.shape[1]}")
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: X must be finite, got NaN or infinity")
        return torch.from_numpy(x)

    def _radii(self, name: str, eps: ArrayLike | None, rows: int) -> Floats:
        """eps, or the own one, as [] or [N]."""
        radii = np.asarray(self.eps if eps is None else eps)
        if (
            radii.dtype.kind not in "fiu"
            or radii.shape not in ((), (rows,))
            or not (np.isfinite(radii) & (radii >= 0)).all()
        ):
            raise ValueError(
                f"{name}: eps must be finite and at least 0, a number or [{rows}] of them, "
                f"got {repr(radii.tolist()) if radii.size < 5 else f'shape {list(radii.shape)}'}"
            )
        return radii.astype(np.float64)

    def _labels(self, name: str, y: ArrayLike, rows: int) -> NDArray[Any]:
        labels = np.asarray(y)
        if labels.shape != (rows,):
            raise ValueError(f"{name}: y must have shape [{rows}] as X has rows, got {list(labels.shape)}")
        return labels

    def _index(self, name: str, y: ArrayLike, rows: int) -> Tensor:
        """Labels as `linear` wants them."""
        labels = self._labels(name, y, rows)
        if not np.isin(labels, self.classes_).all():
            unknown = labels[~np.isin(labels, self.classes_)][0]
            raise ValueError(f"{name}: y has the label {unknown!r}, which fit has not seen")
        index = torch.from_numpy(np.searchsorted(self.classes_, labels))
        return 2 * index - 1 if len(self.classes_) == 2 else index
