"""LinearObjective: the mean loss of a linear model as a function of its coefficients, for any optimiser."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import scipy.sparse as sp
import threadpoolctl
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import dispatch, linear
from fastloss._whole_batch import WholeBatch
from fastloss.losses import BatchLoss, Loss, get_loss

__all__ = ["LinearObjective"]

#: Methods of ``scipy.optimize.minimize`` that use the hessian.
WITH_HESSIAN = frozenset({"newton-cg", "trust-ncg", "trust-krylov", "trust-constr"})


class LinearObjective:
    """Mean loss of raw = X·coef + intercept + offset, plus ½·alpha·‖coef‖², with its gradient, in one pass over X.

    Called with coefficients it returns (value, gradient): what ``scipy.optimize.minimize`` takes with ``jac=True``.
    :meth:`minimize` calls that with all the rest.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, d)
        Dense float32 and float64 arrays are used where they are, with any strides (F-order and memory-mapped ones
        included); other real types are converted tile by tile. CSR matrices with int32 or int64 indices are used where
        they are, unsorted and duplicate indices allowed (duplicates add up); other sparse formats are converted to CSR
        once. The numbers must be finite. float32 sets the working dtype; everything else works in float64.
    y : array-like of shape (n,), (n, T) or (n, K)
        What the loss wants: targets, T targets for T outputs (the loss is their sum; for a ``MultiTaskLoss`` each its
        own, NaN for gaps), or for a multiclass loss labels or (n, K) soft targets.
    loss : str or Loss, default "squared_error"
        One of :func:`fastloss.list_losses`, a loss over the whole batch (``list_losses(kind="batch")``), or a Loss.
    alpha : float, default 0.0
        Strength of the penalty ½·alpha·‖coef‖², >= 0; the intercept is not penalised.
    fit_intercept : bool, default True
        Whether there is an intercept for every score.
    sample_weight : array-like of shape (n,), optional
        Weights >= 0; the mean is Σ w l / Σ w.
    offset : array-like of shape (n,), or (n, K) for K scores, optional
        Added to the raw predictions, e.g. the logarithm of an exposure.
    n_classes : int, optional
        K, for a multiclass loss with labels; by default the largest label + 1.
    group : array-like of shape (G,), optional
        For ranking losses: the sizes of consecutive groups of rows.
    n_threads : int, optional
        Number of threads; None for as many as are useful. Results do not depend on it.

    Attributes
    ----------
    n_features, n_scores, size : int
        d, K (1 for a single target, T for T targets), and the number of coefficients, K·(d + 1) or K·d.
    dtype : dtype
        In which the products are formed; sums over the samples are float64.
    loss : Loss
    initial : ndarray of shape (size,)
        A starting point: zeros.

    Raises
    ------
    ValueError, TypeError
        For data that do not fit together or to the loss; the message names the argument, what it got and what was
        expected.

    Notes
    -----
    Coefficients w are flat: K rows of d coefficients with the intercept last, so ``w.reshape(K, d + 1)`` (without
    intercept ``w.reshape(K, d)``); :meth:`unpack` takes them apart. Gradients have w's dtype and shape.

    Beside the data an evaluation needs tiles of some hundred kilobytes per thread and at most 16 accumulators of the
    size of the coefficients; nothing of the length of y is stored. Up to K·d = 1e6 coefficients chunks of rows are
    summed up side by side; beyond, threads share the coefficients. Ctrl-C is noticed between tiles.

    A loss over the whole batch takes two passes over X, some float64 vectors of the length of y, and has no hessian
    products; losses of pairs of scores do not depend on the intercept.

    Examples
    --------
    >>> import fastloss, numpy as np
    >>> obj = fastloss.LinearObjective([[1.0], [2.0]], [2.0, 3.0], fit_intercept=False)
    >>> obj(np.array([1.0]))
    (0.5, array([-1.5]))
    >>> from scipy.optimize import minimize
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 3)); y = rng.random(1000) < 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.0] - 1.0))
    >>> obj = fastloss.LinearObjective(X, y, loss="log_loss", alpha=1e-4)
    >>> coef, intercept = obj.unpack(minimize(obj, obj.initial, jac=True, method="L-BFGS-B").x)   # or obj.minimize()
    >>> bool(abs(coef - [1.0, -2.0, 0.0]).max() < 0.3)
    True
    """

    def __init__(
        self,
        X: Any,
        y: ArrayLike,
        loss: str | Loss = "squared_error",
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        sample_weight: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        n_classes: int | None = None,
        group: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.loss = get_loss(loss)
        self.alpha = _checked_alpha(alpha)
        self.fit_intercept = _checked_flag("fit_intercept", fit_intercept)
        self._X = _matrix(X)
        n, self.n_features = self._X.shape
        targets = dispatch.as_real(y, "y")
        if targets.ndim not in (1, 2) or targets.shape[0] != n:
            raise ValueError(f"y has shape {targets.shape}, but X has {n} rows: expected ({n},) or ({n}, number)")
        if n == 0:
            raise ValueError(f"X has no rows: shape {self._X.shape}")
        self.loss = self.loss._for_training(targets.shape[1] if targets.ndim == 2 else 1)
        self.n_scores = self._count_scores(targets, n_classes)
        self.dtype = np.dtype(np.float32 if self._X.dtype.newbyteorder("=") == np.float32 else np.float64)
        weights, offsets = _checked_weights(sample_weight, n), self._checked_offset(offset, n)
        if self.loss._masks_nan and np.isnan(targets if weights is None else targets[weights > 0]).all():
            raise ValueError("the mean loss is not defined: all targets in y are NaN, or their weights 0")
        self.loss._groups(group)  # raises where the loss knows none
        self._beside_X = (targets, weights, offsets, self.n_scores, self.dtype == np.float32, n_threads)
        self._compiled = self._compile(group)

    # --------------------------------------------------------------------------------------------- evaluation
    def __call__(self, w: ArrayLike) -> tuple[float, NDArray]:
        """Value and gradient at the coefficients `w`.

        Parameters
        ----------
        w : array-like of shape (size,), or of shape (K, d + 1) (without intercept (K, d))
            float32 and float64 are kept, other real types become float64.

        Returns
        -------
        value : float
            Mean loss + ½·alpha·‖coef‖².
        gradient : ndarray of w's shape and dtype
        """
        given, table = self._table(w, "w")
        value, coef, intercept = self._compiled.evaluate(linear.VALUE, self._split(table))
        d = self.n_features
        penalty = 0.5 * self.alpha * float(np.einsum("ij,ij->", table[:, :d], table[:, :d], dtype=np.float64))
        return value + penalty, self._joined(coef, intercept, given, table)

    def hessp(self, w: ArrayLike, v: ArrayLike) -> NDArray:
        """Hessian at `w` times the direction `v`, in one pass over X.

        At kinks and jumps of the loss's derivative the hessian diagonal is that of :meth:`Loss.gradient_hessian`.

        Parameters
        ----------
        w, v : array-like of shape (size,), or of shape (K, d + 1) (without intercept (K, d))

        Returns
        -------
        ndarray of v's shape and (floating) dtype
        """
        self.loss._hessian_policy("exact")  # raises where a loss has none
        if self.loss._couples_columns:
            raise ValueError(
                f"{self.loss.name} with a loss over K classes has no products with its hessian, which couples columns; "
                "use a method that takes gradients alone, such as 'L-BFGS-B'"
            )
        _, table = self._table(w, "w")
        given, direction = self._table(v, "v")
        _, coef, intercept = self._compiled.evaluate(linear.PRODUCT, self._split(table), self._split(direction))
        return self._joined(coef, intercept, given, direction)

    def hessian_diag(self, w: ArrayLike) -> NDArray:
        """Diagonal of the hessian at `w`, in one pass over X.

        Parameters
        ----------
        w : array-like of shape (size,), or of shape (K, d + 1) (without intercept (K, d))

        Returns
        -------
        ndarray of w's shape and (floating) dtype
        """
        self.loss._hessian_policy("exact")
        given, table = self._table(w, "w")
        _, coef, intercept = self._compiled.evaluate(linear.DIAGONAL, self._split(table))
        return self._joined(coef, intercept, given, np.ones_like(table))

    # --------------------------------------------------------------------------------------------- minimisation
    def minimize(self, method: str = "L-BFGS-B", start: ArrayLike | None = None, **settings: Any) -> Any:
        """Minimise with ``scipy.optimize.minimize``, while BLAS runs on one thread.

        The optimiser's own vectors are short, but its BLAS may wake threads for them that then spin on the cores the
        next evaluation needs: on two cores that doubles the time of a fit (covtype, 581 012 × 54: 0.42 s with this
        method, 0.79 s with a plain call of ``scipy.optimize.minimize``).

        Parameters
        ----------
        method : str, default "L-BFGS-B"
            A method of ``scipy.optimize.minimize``. Those that use hessian products get :meth:`hessp`.
        start : array-like of shape (size,), optional
            Where to start; by default :attr:`initial`.
        **settings
            Further arguments of ``scipy.optimize.minimize``: `options`, `tol`, `callback`, `bounds` ...

        Returns
        -------
        scipy.optimize.OptimizeResult
            With the coefficients in ``x``, for :meth:`unpack`.

        Examples
        --------
        >>> import fastloss
        >>> objective = fastloss.LinearObjective([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])
        >>> objective.minimize().x.round(3)
        array([2., 1.])
        """
        if not self.loss._gradient_is_slope:
            raise ValueError(
                f"{self.loss.name} is defined by its gradients, which are not the slope of its value, so that no line "
                "search holds; minimise 'listnet', 'pairwise_logistic' or 'approx_ndcg', or use "
                f"{self.loss.name} in boosting"
            )
        from scipy.optimize import minimize  # a third of a second to import; evaluations do not need it

        w = self.initial if start is None else start
        product = {"hessp": self.hessp} if method.lower() in WITH_HESSIAN else {}
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            return minimize(self, w, method=method, jac=True, **(product | settings))

    # --------------------------------------------------------------------------------------------- coefficients
    @property
    def size(self) -> int:
        """Number of coefficients, intercepts included."""
        return self.n_scores * (self.n_features + self.fit_intercept)

    @property
    def initial(self) -> NDArray:
        """A starting point for optimisers: float64 zeros, so that gradients keep what float32 data have."""
        return np.zeros(self.size)

    def unpack(self, w: ArrayLike) -> tuple[NDArray, Any]:
        """Take coefficients apart.

        Parameters
        ----------
        w : array-like of shape (size,), or of shape (K, d + 1) (without intercept (K, d))

        Returns
        -------
        coef : ndarray of shape (d,), or (K, d) for K > 1 scores
        intercept : float, or ndarray of shape (K,); 0 where none is fitted
        """
        _, table = self._table(w, "w")
        coef, intercept = self._split(table)
        return (coef[0], float(intercept[0])) if self.n_scores == 1 else (coef, intercept)

    def _table(self, w: ArrayLike, name: str) -> tuple[NDArray, NDArray]:
        """The array as given (of a floating dtype), and as a table (K, d + 1) or (K, d)."""
        given = dispatch.as_floating(w, name)
        columns = self.n_features + self.fit_intercept
        if given.shape != (self.size,) and given.shape != (self.n_scores, columns):
            raise ValueError(
                f"{name} has shape {given.shape}, expected ({self.size},) or ({self.n_scores}, {columns}) for "
                f"{self.n_scores} x {self.n_features} coefficients" + " and intercepts" * self.fit_intercept
            )
        return given, given.reshape(self.n_scores, columns)

    def _split(self, table: NDArray) -> tuple[NDArray, NDArray]:
        d = self.n_features
        intercept = table[:, d] if self.fit_intercept else np.zeros(self.n_scores, table.dtype)
        return table[:, :d], intercept

    def _joined(self, coef: NDArray, intercept: NDArray, given: NDArray, penalised: NDArray) -> NDArray:
        """Coefficients + alpha·penalised beside intercept, in the shape and dtype of `given`."""
        d = self.n_features
        result = np.empty((self.n_scores, d + self.fit_intercept), given.dtype.newbyteorder("="))
        if self.alpha:
            coef += self.alpha * penalised[:, :d].astype(np.float64, copy=False)
        with np.errstate(over="ignore"):
            result[:, :d] = coef
            if self.fit_intercept:
                result[:, d] = intercept
        return result.reshape(given.shape)

    # --------------------------------------------------------------------------------------------- construction
    def _count_scores(self, y: NDArray, n_classes: int | None) -> int:
        if self.loss.kind != "multiclass" or y.ndim == 2:
            if n_classes is not None and self.loss.kind != "multiclass":
                raise ValueError(f"n_classes = {n_classes!r} is for multiclass losses, {self.loss.name} is none")
            outputs = 0 if self.loss.kind == "batch" else self.loss._kernel.outputs
            if outputs and y.shape[1:] != (outputs,):
                raise ValueError(f"y has shape {y.shape}: {self.loss.name} needs ({y.shape[0]}, {outputs})")
            if n_classes is not None and n_classes != y.shape[1]:
                raise ValueError(f"n_classes = {n_classes!r}, but y has targets for {y.shape[1]} classes")
            if y.ndim == 2 and y.shape[1] == 0:
                raise ValueError(f"y has no outputs: shape {y.shape}")
            if self.loss.kind == "multiclass" and not self.loss._kernel.soft_targets:
                raise ValueError(f"y has shape {y.shape}: {self.loss.name} needs labels of shape ({y.shape[0]},)")
            return y.shape[1] if y.ndim == 2 else 1
        if n_classes is not None:
            try:
                count = operator.index(n_classes)
            except TypeError:
                raise TypeError(f"n_classes must be an integer or None, got {n_classes!r}") from None
            if count < 1 or isinstance(n_classes, bool):
                raise ValueError(f"n_classes must be >= 1, got {n_classes!r}")
            return count
        ignored = self.loss._kernel.ignore_index
        known = y if ignored is None else y[y != ignored]
        top = float(known.max()) if known.size else 0.0
        if not np.isfinite(top):
            place = int(np.flatnonzero(~np.isfinite(y))[0])
            raise ValueError(f"y_true[{place}] = {y[place].item()!r}: {self.loss.name} needs labels 0, 1, ...")
        return max(1, int(top) + 1)

    def _compile(self, group: ArrayLike | None) -> linear.Linear | WholeBatch:
        X = csr_parts(self._X) if sp.issparse(self._X) else self._X
        if isinstance(self.loss, BatchLoss):
            targets, weights, offset, _, single, n_threads = self._beside_X
            return WholeBatch(self.loss, X, targets, weights, offset, single, n_threads, group)
        return linear.Linear(self.loss._kernel, X, *self._beside_X)

    def _checked_offset(self, offset: ArrayLike | None, n: int) -> NDArray | None:
        if offset is None:
            return None
        values = dispatch.as_real(offset, "offset")
        shapes = [(n, self.n_scores)] + [(n,)] * (self.n_scores == 1)
        if values.shape not in shapes:
            expected = " or ".join(map(str, shapes[::-1]))
            raise ValueError(f"offset has shape {values.shape}, expected {expected}")
        return values


# ------------------------------------------------------------------------------------------------- arguments
def _matrix(X: Any) -> Any:
    """A dense array of real numbers, or a CSR matrix of float32 or float64 that can be read without looking."""
    if not sp.issparse(X):
        dense = dispatch.as_real(X, "X")
        if dense.ndim != 2:
            raise ValueError(f"X must have shape (n, d), got {dense.shape}")
        return dense
    if X.ndim != 2:
        raise ValueError(f"X must have shape (n, d), got {X.shape}")
    if X.dtype.kind not in "fiub":
        raise TypeError(f"X must hold real numbers, got dtype {X.dtype}")
    csr = X.tocsr()
    if csr.dtype != np.float32 and csr.dtype != np.float64:
        csr = csr.astype(np.float64)
    _check_structure(csr)
    return csr


def _check_structure(csr: Any) -> None:
    """Indices are trusted by the kernels, so they are looked at here: one pass over them."""
    n, d = csr.shape
    starts, columns = csr.indptr, csr.indices
    if len(starts) != n + 1 or (n and starts[0] != 0) or linear.first_descent(starts) >= 0:
        raise ValueError("X.indptr must have one entry per row and one more, start at 0 and never decrease")
    stored = int(starts[-1]) if n else 0
    if stored > len(columns) or stored > len(csr.data):
        raise ValueError(
            f"X.indptr ends at {stored}, but X has {len(columns)} column indices and {len(csr.data)} values"
        )
    wrong = linear.first_outside(columns[:stored], d)
    if wrong >= 0:
        raise ValueError(f"X.indices[{wrong}] = {columns[wrong]}: expected columns in 0 ... {d - 1}")


def csr_parts(csr: Any) -> tuple[NDArray, NDArray, NDArray, int, int]:
    """Contiguous arrays of a CSR matrix, in native byte order, with one type of indices."""
    wide = csr.indices.dtype.itemsize == 8 or csr.indptr.dtype.itemsize == 8
    index = np.int64 if wide else np.int32
    data = np.ascontiguousarray(csr.data, csr.dtype.newbyteorder("="))
    return data, np.ascontiguousarray(csr.indices, index), np.ascontiguousarray(csr.indptr, index), *csr.shape


def _checked_weights(sample_weight: ArrayLike | None, n: int) -> NDArray | None:
    if sample_weight is None:
        return None
    weights = dispatch.as_real(sample_weight, "sample_weight")
    if weights.shape != (n,):
        raise ValueError(f"sample_weight has shape {weights.shape}, expected ({n},)")
    return weights


def _checked_alpha(alpha: float) -> float:
    if isinstance(alpha, (bool, str, bytes, complex)) or not hasattr(alpha, "__float__"):
        raise TypeError(f"alpha must be a number >= 0, got {alpha!r}")
    if not 0 <= float(alpha) < np.inf:
        raise ValueError(f"alpha must be finite and >= 0, got {alpha!r}")
    return float(alpha)


def _checked_flag(name: str, value: bool) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)
