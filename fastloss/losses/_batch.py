"""What losses over a whole batch share: arguments, weights, groups, reductions.  The losses are in `batch.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._kernels import batch, dispatch
from fastloss.losses._base import Hessian, Loss, OptionSpec, Reduction

POLICIES = {"exact": batch.EXACT, "upper_bound": batch.UPPER_BOUND}


def Choice(*choices: str) -> Any:  # noqa: N802 - reads as the field it declares
    """Declare an option that is one of some words; the first is the default."""
    words = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"

    def read(message: str, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{message}, got {value!r}")
        if value not in choices:
            raise ValueError(f"{message}, got {value!r}")
        return value

    return OptionSpec(choices[0], words, read)


def Count(default: int) -> Any:  # noqa: N802
    """Declare an option that is a whole number >= 1."""

    def read(message: str, value: Any) -> int:
        if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
            raise TypeError(f"{message}, got {value!r}")
        if value < 1:
            raise ValueError(f"{message}, got {value!r}")
        return int(value)

    return OptionSpec(default, "an integer >= 1", read)


@dataclass(frozen=True)
class Batch:
    """Targets, weights and groups of a batch after their checks, without the rows of weight 0."""

    n: int
    kept: NDArray | None  # indices of the rows that count; None: all
    y: NDArray  # float64, as the loss wants them
    weight: NDArray  # float64
    starts: NDArray  # rows of group g: starts[g] ... starts[g + 1] - 1
    prepared: Any  # what the loss finds out once for all raw predictions

    def rows(self, raw: NDArray) -> NDArray:
        """The raw predictions that count, contiguous and float64."""
        return np.ascontiguousarray(raw if self.kept is None else raw[self.kept], np.float64)


class BatchLoss(Loss):
    """A loss whose value belongs to the batch, or to a group of its samples, and not to a sample.

    The methods are those of :class:`fastloss.losses.Loss`, for arrays of shape (n,), with these differences:

    * ``reduction`` is "mean" (the normalised value, see each loss) or "sum"; there is no "none", as there are no losses
      of samples.
    * ``hessian`` is "exact", the diagonal of the second derivative, or "upper_bound", a diagonal that is nowhere below
      it and never negative: for boosting.
    * The ranking losses take ``group``, the sizes of consecutive groups of rows, as LightGBM does; by default all rows
      are one group.
    * They work on float64 copies of the vectors, without the rows of weight 0.

    They have no place in sums and in ``MultiTaskLoss``, which add up losses of samples, nor in the estimators;
    ``LinearObjective``, boosting, ``check_loss`` and ``fastloss.interop.torch`` take them.

    Examples
    --------
    >>> import fastloss
    >>> loss = fastloss.losses.PairwiseLogistic()
    >>> isinstance(loss, fastloss.losses.BatchLoss), loss.grouped
    (True, True)
    >>> loss.gradient([1, 0, 2, 0], [0.0, 0.0, 1.0, 1.0], group=[2, 2], reduction="sum")
    array([-0.5,  0.5, -0.5,  0.5])
    """

    kind = "batch"
    grouped: ClassVar[bool] = False

    # What a subclass defines ------------------------------------------------------------------------------------
    def _targets(self, y: NDArray) -> NDArray:
        """Targets as float64, or an error that names the first that is none."""
        raise NotImplementedError

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> Any:
        """What depends on the targets alone."""
        return None

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        """Value of the batch, gradient and hessian (empty unless `bend`), before `_factors`."""
        raise NotImplementedError

    def _factors(self, data: Batch) -> tuple[float, float]:
        """Factors of `_terms` for "mean" (NaN where there is none) and "sum": here the value is a mean already."""
        total = float(np.sum(data.weight))
        return (1.0 if total > 0 else math.nan), total

    def _groups(self, group: ArrayLike | None) -> dict[str, Any]:
        return {"group": group}

    # The methods ------------------------------------------------------------------------------------------------
    def loss(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        group: ArrayLike | None = None,
        reduction: Reduction = "mean",
        loss_out: NDArray | None = None,
        n_threads: int | None = None,
    ) -> float:
        """Value of the batch.

        Parameters
        ----------
        y_true : array-like of shape (n,)
            Targets, see :attr:`target`.
        raw_prediction : array-like of shape (n,)
            Scores. Their dtype, float32 or float64 (for other real types float64), is that of gradients.
        sample_weight : array-like of shape (n,), optional
            Weights >= 0. A sample of weight 0 counts as absent, whatever its raw prediction.
        group : array-like of shape (G,), optional
            For ranking losses: the sizes of consecutive groups of rows; their sum is n.
        reduction : {"mean", "sum"}
            The normalised value or the sum, see the loss.
        loss_out : None
            Batches have no losses of samples to put there.
        n_threads : int, optional
            Number of threads; None for as many as are useful. The result does not depend on it.

        Returns
        -------
        float
        """
        self._refuse_output(loss_out)
        return self._evaluate(y_true, raw_prediction, sample_weight, group, reduction, n_threads)[0]

    def gradient(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        group: ArrayLike | None = None,
        reduction: Reduction = "mean",
        gradient_out: NDArray | None = None,
        n_threads: int | None = None,
    ) -> NDArray:
        """Gradient of the batch's value; see :meth:`loss`.

        Returns
        -------
        ndarray of shape (n,)
        """
        return self._evaluate(
            y_true, raw_prediction, sample_weight, group, reduction, n_threads, gradient=(gradient_out,)
        )[1]

    def loss_gradient(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        group: ArrayLike | None = None,
        reduction: Reduction = "mean",
        loss_out: NDArray | None = None,
        gradient_out: NDArray | None = None,
        n_threads: int | None = None,
    ) -> tuple[float, NDArray]:
        """Value and gradient of the batch; see :meth:`loss`.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n,)
        """
        self._refuse_output(loss_out)
        return self._evaluate(
            y_true, raw_prediction, sample_weight, group, reduction, n_threads, gradient=(gradient_out,)
        )[:2]

    def gradient_hessian(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        group: ArrayLike | None = None,
        reduction: Reduction = "mean",
        gradient_out: NDArray | None = None,
        hessian_out: NDArray | None = None,
        hessian: Hessian = "exact",
        n_threads: int | None = None,
    ) -> tuple[NDArray, NDArray]:
        """Gradient of the batch's value and a diagonal for its hessian; see :meth:`loss`.

        Parameters
        ----------
        y_true, raw_prediction, sample_weight, group, reduction, gradient_out, hessian_out, n_threads
            As in :meth:`loss` and :meth:`fastloss.losses.Loss.gradient_hessian`.
        hessian : {"exact", "upper_bound"}
            "exact": the diagonal of the second derivative, 0 at kinks. "upper_bound": a diagonal that is never
            negative and nowhere smaller; each loss says which.

        Returns
        -------
        gradient, hessian : ndarray of shape (n,)
        """
        if hessian not in POLICIES:
            raise ValueError(f"hessian={hessian!r}: {self.name} has 'exact', 'upper_bound'")
        return self._evaluate(
            y_true,
            raw_prediction,
            sample_weight,
            group,
            reduction,
            n_threads,
            gradient=(gradient_out,),
            hessian=(hessian_out,),
            bend=POLICIES[hessian],
        )[1:]

    # Arguments to results ---------------------------------------------------------------------------------------
    def _evaluate(
        self,
        y_true: ArrayLike,
        raw_prediction: ArrayLike,
        sample_weight: ArrayLike | None,
        group: ArrayLike | None,
        reduction: str,
        n_threads: int | None,
        gradient: tuple[NDArray | None] | None = None,
        hessian: tuple[NDArray | None] | None = None,
        bend: int = batch.NO_HESSIAN,
    ) -> Any:
        """(value, gradient, hessian); the last two, where wanted, in the buffers given or in new arrays."""
        y = dispatch.as_real(y_true, "y_true")
        raw = dispatch.as_floating(raw_prediction, "raw_prediction")
        others = [("y_true", y), ("raw_prediction", raw)]
        if sample_weight is not None:
            sample_weight = dispatch.as_real(sample_weight, "sample_weight")
            others.append(("sample_weight", sample_weight))
        if raw.ndim != 1:
            raise ValueError(f"raw_prediction must have shape (n,) for {self.name}, got {raw.shape}")
        if y.shape != raw.shape:
            raise ValueError(f"y_true has shape {y.shape} and raw_prediction {raw.shape}; they must be equal")
        outputs: list[NDArray | None] = [None, None]
        for k, (name, wanted) in enumerate((("gradient_out", gradient), ("hessian_out", hessian))):
            if wanted is not None:
                array = outputs[k] = dispatch.result_like(wanted[0], name, raw, others)
                others.append((name, array))
        data = self._batch(y, sample_weight, group)
        factor = self._factor(data, reduction)
        value, *derivatives = self._terms(data, data.rows(raw), bend, n_threads)
        for out, values in zip(outputs, derivatives, strict=True):
            if out is not None:
                _deliver(values, factor, data.kept, out)
        return value * factor, *outputs

    def _batch(self, y: NDArray, sample_weight: NDArray | None, group: ArrayLike | None) -> Batch:
        """The checked batch; y and sample_weight are arrays of real numbers."""
        if not self.grouped:
            super()._groups(group)  # raises where there are some
        n = len(y)
        starts = _starts(group, n)
        targets = self._targets(y)
        weight, kept = _weights(sample_weight, n)
        if kept is not None:
            targets, weight = targets[kept], weight[kept]
            starts = np.searchsorted(kept, starts).astype(np.intp)
        return Batch(n, kept, targets, weight, starts, self._prepare(targets, weight, starts))

    def _factor(self, data: Batch, reduction: str) -> float:
        if reduction == "none":
            raise ValueError(
                f"reduction='none' is not defined: {self.name} has a value for the batch, not for samples; "
                "use 'mean' or 'sum'"
            )
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        mean, total = self._factors(data)
        if reduction == "mean" and not mean < math.inf:
            raise ValueError(f"reduction='mean' is not defined: {self._no_mean(data)}; use 'sum'")
        return mean if reduction == "mean" else total

    def _no_mean(self, data: Batch) -> str:
        if data.n == 0:
            return "there are no samples"
        return "all weights are 0" if len(data.y) == 0 else "there is no pair of a positive and a negative sample"

    def _refuse_output(self, loss_out: object) -> None:
        if loss_out is not None:
            raise ValueError(f"loss_out is for losses of samples; {self.name} has a value for the batch, a float")

    def _make_kernel(self, values: dict[str, Any]) -> Any:
        return None  # per-sample kernels are what these losses do not have


def _deliver(values: NDArray, factor: float, kept: NDArray | None, out: NDArray) -> None:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if kept is None:
            np.multiply(values, factor, out=out, casting="same_kind")
        else:
            out[...] = 0
            out[kept] = values * factor


def _weights(sample_weight: NDArray | None, n: int) -> tuple[NDArray, NDArray | None]:
    """Weights, and the indices of those > 0 if there are others."""
    if sample_weight is None:
        return np.ones(n), None
    if sample_weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {sample_weight.shape}, expected ({n},)")
    weight = np.ascontiguousarray(sample_weight, np.float64)
    wrong = ~((weight >= 0) & (weight < np.inf))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(f"sample_weight[{place}] = {sample_weight[place].item()!r}: weights must be finite and >= 0")
    return weight, (None if weight.all() else np.flatnonzero(weight))


def _starts(group: ArrayLike | None, n: int) -> NDArray:
    """First rows of the groups, and n."""
    if group is None:
        return np.array([0, n], np.intp)
    sizes = dispatch.as_real(group, "group")
    if sizes.ndim != 1:
        raise ValueError(f"group must have shape (number of groups,), got {sizes.shape}")
    if sizes.dtype.kind not in "iu" and sizes.size:
        raise TypeError(f"group must hold the sizes of consecutive groups, integers, got dtype {sizes.dtype}")
    wrong = np.flatnonzero((sizes < 0) | (sizes > n))
    if wrong.size:
        place = int(wrong[0])
        raise ValueError(f"group[{place}] = {sizes[place].item()}: sizes of groups must be between 0 and the {n} rows")
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.intp)
    if starts[-1] != n:
        raise ValueError(f"group adds up to {starts[-1]} rows, but y_true has {n}")
    return starts


def refuse(wrong: NDArray, y: NDArray, loss: Loss) -> None:
    """The error of the first wrong target, if there is one."""
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(f"y_true[{place}] = {y[place].item()!r}: {loss.name} needs {loss.target}")
