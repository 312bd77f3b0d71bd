"""Losses over a whole batch: one value for all samples, or for each group of them.

Surrogates of metrics that are no sums over samples: the area under the ROC curve, the order within groups, F-scores and
overlaps.  They have the methods of every loss; a gradient's entry is the derivative of the batch's value by one raw
prediction.  `_batch.py` has what they share, `fastloss/_kernels/batch.pyx` computes them, in float64.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastloss._kernels import batch
from fastloss.losses._base import Parameter
from fastloss.losses._batch import Batch, BatchLoss, Choice, Count, refuse
from fastloss.losses.binary import LogLoss

__all__ = [
    "ApproxNdcg",
    "Dice",
    "Jaccard",
    "Lambdarank",
    "Listnet",
    "LovaszHinge",
    "PairwiseAuc",
    "PairwiseLogistic",
    "SoftFbeta",
    "Tversky",
]

LOG_LOSS = LogLoss()._kernel
TOP_GRADE = 100.0  # gains are 2^grade - 1


class _TwoClasses(BatchLoss):
    """Losses of two classes."""

    target = "labels in {0, 1} or {-1, 1}"
    soft: ClassVar[bool] = False

    def _targets(self, y: NDArray) -> NDArray:
        values = np.ascontiguousarray(y, np.float64)
        inside = (values >= 0) & (values <= 1) if self.soft else (values == 0) | (values == 1)
        negative = values == -1
        refuse(~(inside | negative), y, self)
        if negative.any():
            if (inside & (values < 1)).any():
                raise ValueError(f"y_true mixes label -1 with labels in [0, 1): {self.name} needs {self.target}")
            return np.maximum(values, 0)
        return values


# ------------------------------------------------------------------------------------------------- the ROC curve
class PairwiseAuc(_TwoClasses):
    """Pairwise surrogate of 1 − AUC: the mean over pairs of a positive i and a negative j of l(rawᵢ − rawⱼ).

    The area under the ROC curve is the share of such pairs with rawᵢ > rawⱼ. With l(d) = max(0, 1 − d)², max(0, 1 − d)
    or log(1 + exp(−d)) in place of 1{d < 0} it has a gradient.

    Parameters
    ----------
    surrogate : {"squared_hinge", "hinge", "logistic"}, default "squared_hinge"
        l. The hinges are computed exactly in O(n log n), by sorting; "logistic" takes all pairs, in blocks.

    Notes
    -----
    "mean" is Σ wᵢ wⱼ l / Σ wᵢ wⱼ, "sum" Σ wᵢ wⱼ l over the pairs. Without a pair "sum" is 0 and "mean" an error.
    Squared hinge and hinge bound the 0–1 loss of a pair from above, so that the mean bounds 1 − AUC. Margins rawᵢ −
    rawⱼ are rounded to float64, also those of float32 scores; where such a margin is 1 or more, value, gradient and
    hessian of the pair are 0. A score of positive weight that is NaN or infinite makes value and gradient NaN.

    Hessians: "exact" (0 for the hinge); "upper_bound" takes for every pair the bound of l″: 2, 1 (by convention), ¼.
    Raw predictions are scores: adding a constant changes nothing. T. Calders and S. Jaroszewicz, Efficient AUC
    optimization for classification, PKDD 2007; T. Joachims, A support vector method for multivariate performance
    measures, ICML 2005.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.get_loss("pairwise_auc").loss_gradient([1, 0, 0], [0.5, 0.0, 2.0])
    (3.25, array([-3. ,  0.5,  2.5]))
    """

    name = "pairwise_auc"
    surrogate: str = Choice("squared_hinge", "hinge", "logistic")

    def _factors(self, data: Batch) -> tuple[float, float]:
        positive = data.y > 0
        pairs = float(np.sum(data.weight[positive])) * float(np.sum(data.weight[~positive]))
        return (1 / pairs if pairs > 0 else math.nan), 1.0

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> NDArray:
        return (y > 0).astype(np.uint8)

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        if not np.isfinite(raw).all():
            return math.nan, np.full(len(raw), np.nan), np.full(len(raw) if bend else 0, np.nan)
        if self.surrogate == "logistic":
            total, gradient, hessian = self._all_pairs(data, raw, bend, n_threads)
        else:
            squared = self.surrogate == "squared_hinge"
            total, gradient, hessian = batch.sorted_pairs(raw, data.weight, data.prepared, squared, bend, n_threads)
        if bend == batch.UPPER_BOUND:
            bound = {"squared_hinge": 2.0, "hinge": 1.0, "logistic": 0.25}[self.surrogate]
            positive = data.y > 0
            of_others = np.where(positive, float(np.sum(data.weight[~positive])), float(np.sum(data.weight[positive])))
            hessian = bound * data.weight * of_others
        return total, gradient, hessian

    def _all_pairs(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        rows = np.flatnonzero(data.y > 0), np.flatnonzero(data.y == 0)
        few_are_positive = len(rows[0]) <= len(rows[1])
        few, many = rows if few_are_positive else rows[::-1]
        total, *parts = batch.all_pairs(
            LOG_LOSS,
            raw[few],
            data.weight[few],
            raw[many],
            data.weight[many],
            few_are_positive,
            bend,
            n_threads,
        )
        gradient, hessian = np.empty(len(raw)), np.empty(len(raw) if bend else 0)
        gradient[few], gradient[many] = parts[0], parts[2]
        if bend:
            hessian[few], hessian[many] = parts[1], parts[3]
        return float(total), gradient, hessian


# ------------------------------------------------------------------------------------------------- ranking
class _Ranking(BatchLoss):
    """Losses of the order within groups; "mean" is over groups with a row of positive weight, where no loss says other.

    Whatever a loss's weights mean, their scale changes nothing in "mean".
    """

    grouped = True
    target = "grades in [0, 100]"

    def _has_gains(self) -> bool:
        """Whether grades become gains, 2^grade − 1; else they are any finite numbers."""
        return True

    def _targets(self, y: NDArray) -> NDArray:
        grade = np.ascontiguousarray(y, np.float64)
        allowed = (grade >= 0) & (grade <= TOP_GRADE) if self._has_gains() else np.isfinite(grade)
        refuse(~allowed, y, self)
        return grade

    def _factors(self, data: Batch) -> tuple[float, float]:
        groups = int(np.count_nonzero(np.diff(data.starts)))
        return (1 / groups if groups else math.nan), 1.0

    def _in_order(
        self,
        data: Batch,
        order: NDArray,
        score: NDArray,
        grade: NDArray,
        bend: int,
        n_threads: int | None,
        ideal: NDArray | None = None,
        **settings: Any,
    ) -> tuple[float, NDArray, NDArray]:
        """The groups' values added up; the arrays are in the batch's order, the kernel gets them in `order`."""
        sorted_grade = grade[order]
        values, *derivatives = batch.grouped(
            self.name,
            LOG_LOSS,
            score[order],
            sorted_grade,
            data.weight[order],
            sorted_grade if ideal is None else ideal,
            data.starts,
            bend,
            n_threads,
            **settings,
        )
        gradient, hessian = (np.empty_like(part) for part in derivatives)
        gradient[order], hessian[order[: len(hessian)]] = derivatives
        return float(np.sum(values)), gradient, hessian


class PairwiseLogistic(_Ranking):
    """Pairwise logistic ranking loss (RankNet): Σ log(1 + exp(−(rawᵢ − rawⱼ))) over a group's pairs, grade i > grade j.

    Notes
    -----
    A pair has the weight wᵢ wⱼ: a row of weight 2 is the same as two equal rows. "sum" is Σ wᵢ wⱼ l over the pairs of
    all groups (sizes in `group`), "mean" Σ wᵢ wⱼ l / Σ wᵢ wⱼ. Without a pair "sum" is 0 and "mean" an error. Any finite
    grades; only their order matters. Of one group with two grades it is the logistic `pairwise_auc`. Convex; O(m²) for
    a group of m rows. Hessians: "exact"; "upper_bound" has ¼ in place of a pair's p(1 − p). C. Burges et al., Learning
    to rank using gradient descent, ICML 2005.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.get_loss("pairwise_logistic").loss_gradient([2, 0, 1, 0], [0.0, 0.0, 1.0, 1.0], group=[2, 2])
    (0.6931471805599453, array([-0.25,  0.25, -0.25,  0.25]))
    """

    name = "pairwise_logistic"
    target = "finite grades"

    def _has_gains(self) -> bool:
        return False

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> NDArray:
        return batch.order_in_groups(y, starts)

    def _factors(self, data: Batch) -> tuple[float, float]:
        order = data.prepared
        pairs = batch.pairs_of_grades(data.y[order], data.weight[order], data.starts)
        return (1 / pairs if pairs > 0 else math.nan), 1.0

    def _no_mean(self, data: Batch) -> str:
        return "no group has two rows with different grades" if len(data.y) else super()._no_mean(data)

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        return self._in_order(data, data.prepared, raw, data.y, bend, n_threads)


class Lambdarank(_Ranking):
    """LambdaRank: Σ |ΔNDCG| log(1 + exp(−sigmoid·(rawᵢ − rawⱼ))) over a group's pairs, grade i > grade j.

    |ΔNDCG| is the change of the group's NDCG when i and j swap places in the present order, with gains 2^grade − 1 and
    discounts 1/log₂(1 + rank). LightGBM's ``lambdarank``: without weights its gradients and hessians are those of
    ``reduction="sum"``.

    Parameters
    ----------
    truncation : int, default 30
        Only pairs with at least one of the first so many ranks; NDCG is that of so many ranks.
    sigmoid : float, default 1.0
        Steepness, > 0.
    normalize : bool, default True
        Divide each |ΔNDCG| by 0.01 + |rawᵢ − rawⱼ| (where not all scores of the group are equal), and multiply the
        group's loss by log₂(1 + Λ)/Λ, Λ the sum of twice its pairs' gradients: LightGBM's ``lambdarank_norm``.

    Notes
    -----
    The method is defined by its gradients: the derivative of the sum above **with order, |ΔNDCG| and normalisation held
    fixed**. `loss` is that sum; it jumps where the order changes, and its slope is another one, so it serves to watch,
    not for line searches: :meth:`fastloss.LinearObjective.minimize` refuses it. It is made for boosting; for optimisers
    take `listnet`, `pairwise_logistic` or `approx_ndcg`. Equal scores are ranked in the order of rows.

    A pair also has the weight wᵢ wⱼ; rows of weight 0 take no rank, other weights do not change the ideal DCG. "sum"
    adds up the groups (sizes in `group`), "mean" divides by Σ w̄², w̄ the mean of a group's positive weights: without
    weights the number of groups. A group without a grade > 0 contributes 0. Hessians: "exact", likewise with the order
    held fixed, never negative; "upper_bound" has ¼ in place of a pair's p(1 − p). Grades are in [0, 100], and need not
    be whole. C. Burges, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82.

    Examples
    --------
    >>> import fastloss
    >>> loss = fastloss.get_loss("lambdarank", normalize=False)
    >>> loss.gradient([0, 2, 1], [0.3, 0.2, 0.1]).round(4)
    array([ 0.2358, -0.1943, -0.0415])
    """

    name = "lambdarank"
    always_convex = False
    truncation: int = Count(30)
    sigmoid: float = Parameter(default=1.0, above=0)
    normalize: bool = Parameter(default=True)
    _gradient_is_slope = False

    def _factors(self, data: Batch) -> tuple[float, float]:
        sizes = np.diff(data.starts)
        sizes = sizes[sizes > 0]
        means = np.add.reduceat(data.weight, np.cumsum(sizes) - sizes) / sizes if len(sizes) else np.empty(0)
        total = float(np.sum(means**2))  # a pair's weight has two factors
        return (1 / total if total > 0 else math.nan), 1.0

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> tuple[NDArray, NDArray]:
        gain = np.exp2(y) - 1
        return gain, gain[batch.order_in_groups(gain, starts)]

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        gain, ideal = data.prepared
        order = batch.order_in_groups(raw, data.starts)
        settings = {"scale": self.sigmoid, "truncation": min(self.truncation, len(raw)), "flag": self.normalize}
        return self._in_order(data, order, raw, gain, bend, n_threads, ideal, **settings)


class Listnet(_Ranking):
    """ListNet: −Σ tᵢ log softmax(raw)ᵢ over a group, the cross-entropy of its targets t and its scores.

    Softmax of the scores is the probability, in the Plackett–Luce model, that a row comes first ("top one").

    Parameters
    ----------
    targets : {"softmax", "gains"}, default "softmax"
        t = softmax of the grades, as in the paper; or t proportional to the gain 2^grade − 1.

    Notes
    -----
    A row's weight multiplies its mass in both distributions, tᵢ ∝ wᵢ exp(gradeᵢ) and pᵢ ∝ wᵢ exp(rawᵢ), and the value
    is −Σ tᵢ log pᵢ: the scale of a group's weights changes nothing. A row of weight 2 has the gradient of two equal
    rows together; the value is lower by tᵢ log 2, as is its least value, since the two rows would share tᵢ. "sum" adds
    up the groups (sizes in `group`), "mean" divides by the number of groups that have a row of positive weight. With
    "gains" grades are in [0, 100], and a group without a grade > 0 contributes 0. The least value is the entropy of t,
    not 0. Convex; O(m) for a group of m rows. Hessians: "exact", p(1 − p); "upper_bound", ¼. Z. Cao et al., Learning to
    rank: from pairwise approach to listwise approach, ICML 2007.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.get_loss("listnet", targets="gains").loss_gradient([0, 0, 1], [0.0, 0.0, 0.0])
    (1.0986122886681098, array([ 0.33333333,  0.33333333, -0.66666667]))
    """

    name = "listnet"
    target = 'finite grades, in [0, 100] with targets="gains"'
    targets: str = Choice("softmax", "gains")

    def _has_gains(self) -> bool:
        return self.targets == "gains"

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> tuple[NDArray, NDArray]:
        everything = np.arange(len(y), dtype=np.intp)
        if self.targets == "gains":
            return everything, np.exp2(y) - 1
        sizes = np.diff(starts)
        filled = sizes > 0
        top = np.maximum.reduceat(y, starts[:-1][filled]) if len(y) else y
        with np.errstate(under="ignore"):
            return everything, np.exp(y - np.repeat(top, sizes[filled]))

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        order, mass = data.prepared
        return self._in_order(data, order, raw, mass, bend, n_threads)


class ApproxNdcg(_Ranking):
    """ApproxNDCG: 1 − NDCG of a group with smooth ranks 1 + Σ_{j≠i} sigmoid((rawⱼ − rawᵢ)/temperature).

    NDCG has gains 2^grade − 1 and discounts 1/log₂(1 + rank).

    Parameters
    ----------
    temperature : float, default 0.1
        > 0. The smaller, the closer to 1 − NDCG and the flatter between its steps, in units of the scores.

    Notes
    -----
    A row's weight multiplies its gain, also in the ideal DCG, so that the scale of a group's weights changes nothing;
    rows of weight 0 take no rank. "sum" adds up the groups (sizes in `group`), "mean" divides by the number of groups
    that have a row of positive weight. A group without a grade > 0 contributes 0. Grades are in [0, 100]. Not convex;
    O(m²) for a group of m rows. Hessians: "exact", may be negative; "upper_bound", Σ |qᵢ − qⱼ| p(1 − p)/temperature²
    over the pairs of a row, q the derivatives by the ranks. T. Qin, T.-Y. Liu, H. Li, A general approximation framework
    for direct optimization of information retrieval measures, Information Retrieval 13 (2010).

    Examples
    --------
    >>> import fastloss
    >>> loss = fastloss.get_loss("approx_ndcg", temperature=0.01)
    >>> round(loss.loss([0, 1], [0.2, 0.1]), 4)     # the good one is second: 1 - 1/log2(3)
    0.3691
    """

    name = "approx_ndcg"
    always_convex = False
    temperature: float = Parameter(default=0.1, above=0)

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> tuple[NDArray, NDArray]:
        gain = weight * (np.exp2(y) - 1)
        return batch.order_in_groups(gain, starts), gain

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        order, gain = data.prepared
        return self._in_order(data, order, raw, gain, bend, n_threads, scale=1 / self.temperature)


# ------------------------------------------------------------------------------------------------- overlaps
class _Overlap(_TwoClasses):
    """1 − overlap = (a·FP + b·FN) / (c·TP + a·FP + b·FN + smooth): no difference of nearly equal numbers."""

    target = "labels in {0, 1}, {-1, 1} or [0, 1]"
    soft = True
    link = "logit"
    always_convex = False
    smooth: float = Parameter(default=0.0, at_least=0)

    def _costs(self) -> tuple[float, float, float]:
        """Costs of false positives and of false negatives, and the factor of true positives."""
        raise NotImplementedError

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        return batch.overlap(LOG_LOSS, data.y, raw, data.weight, *self._costs(), self.smooth, bend, n_threads)


class SoftFbeta(_Overlap):
    """Soft F-beta: 1 − (1 + beta²)·TP / ((1 + beta²)·TP + beta²·FN + FP), with probabilities for predictions.

    TP = Σ w min(y, p), FP = Σ w max(p − y, 0), FN = Σ w max(y − p, 0) with p = sigmoid(raw): for labels 0 and 1 the
    usual Σ w y p, Σ w (1 − y) p, Σ w y (1 − p), and for soft labels 0 at p = y.

    Parameters
    ----------
    beta : float, default 1.0
        Recall counts beta times as much as precision, > 0.
    smooth : float, default 0.0
        Added to numerator and denominator of the overlap, >= 0, in units of the weights' sum.

    Notes
    -----
    "mean" is this value, which does not depend on the scale of the weights (but for `smooth`), "sum" the value times
    Σ w. Without positives the value is 1 and its gradient 0, if `smooth` is 0; else predictions are pushed down; 0
    where all p are 0. Hessians: "exact", may be negative; "upper_bound", w p(1 − p) |dL/dp| + max(0, (w p(1 − p))²
    d²L/dp²).

    Examples
    --------
    >>> import fastloss
    >>> round(fastloss.loss("soft_fbeta", [1, 1, 0, 0], [40.0, -40.0, -40.0, -40.0]), 6)    # F1 = 2/3
    0.333333
    """

    name = "soft_fbeta"
    beta: float = Parameter(default=1.0, above=0, squared=True)

    def _costs(self) -> tuple[float, float, float]:
        return 1.0, self.beta**2, 1 + self.beta**2


class Dice(_Overlap):
    """Dice loss: 1 − 2·TP / (2·TP + FP + FN) = ‖y − p‖₁ / (‖y‖₁ + ‖p‖₁), with probabilities for predictions.

    The intersection TP is (‖y‖₁ + ‖p‖₁ − ‖y − p‖₁)/2 = Σ w min(y, p), so that the loss is 0 where p = y also for soft
    labels; the product Σ y p would have its minimum elsewhere.

    Parameters
    ----------
    smooth : float, default 0.0
        Added to numerator and denominator of the overlap, >= 0, in units of the weights' sum.

    Notes
    -----
    Reductions, batches without positives and hessians: see :class:`SoftFbeta`, whose value for beta = 1 this is. Z.
    Wang et al., Dice semimetric losses: optimizing the Dice score with soft labels, MICCAI 2023.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.loss("dice", [0.5, 0.5], [0.0, 0.0])
    0.0
    """

    name = "dice"

    def _costs(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 2.0


class Tversky(_Overlap):
    """Tversky loss: 1 − TP / (TP + alpha·FP + beta·FN), with probabilities for predictions.

    Parameters
    ----------
    alpha, beta : float, default 0.5
        Costs of false positives and of false negatives, > 0. Both ½ give Dice, both 1 Jaccard.
    smooth : float, default 0.0
        Added to numerator and denominator of the overlap, >= 0, in units of the weights' sum.

    Notes
    -----
    Sums, reductions, batches without positives and hessians: see :class:`SoftFbeta`. S. Salehi, D. Erdogmus, A.
    Gholipour, Tversky loss function for image segmentation using 3D fully convolutional deep networks, MLMI 2017.

    Examples
    --------
    >>> import fastloss
    >>> round(fastloss.loss("tversky", [1, 1, 0, 0], [40.0, -40.0, -40.0, -40.0], beta=1.0), 6)
    0.5
    """

    name = "tversky"
    alpha: float = Parameter(default=0.5, above=0)
    beta: float = Parameter(default=0.5, above=0)

    def _costs(self) -> tuple[float, float, float]:
        return self.alpha, self.beta, 1.0


class Jaccard(_Overlap):
    """Jaccard loss: 1 − TP / (TP + FP + FN), intersection over union with probabilities for predictions.

    Parameters
    ----------
    smooth : float, default 0.0
        Added to numerator and denominator of the overlap, >= 0, in units of the weights' sum.

    Notes
    -----
    Sums, reductions, batches without positives and hessians: see :class:`SoftFbeta`; 0 where p = y also for soft
    labels. Z. Wang, M. Blaschko, Jaccard metric losses: optimizing the Jaccard index with soft labels, NeurIPS 2023.

    Examples
    --------
    >>> import fastloss
    >>> round(fastloss.loss("jaccard", [1, 1, 0, 0], [40.0, -40.0, -40.0, -40.0]), 6)
    0.5
    """

    name = "jaccard"

    def _costs(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 1.0


class LovaszHinge(_TwoClasses):
    """Lovász hinge: the convex extension of the Jaccard loss of a batch's mistakes, at the hinges max(0, 1 − m).

    With the errors 1 − m sorted from high to low, Σ max(0, error)·(increase of 1 − intersection/union when that row
    becomes a mistake too).

    Notes
    -----
    Convex and piecewise linear in the raw predictions. Where errors are equal, rows count in their order, which makes
    one of the subgradients; the hinge at m = 1 has slope 0. Weights are those of rows in intersection and union, so
    that a row of weight 2 is the same as two equal rows. "mean" is this value, "sum" the value times Σ w. Without
    positives it is the largest hinge. Hessians: "exact" 0; "upper_bound" 1 for each hinge, by convention, times its
    factor. M. Berman, A. Rannen Triki, M. Blaschko, The Lovász-softmax loss, CVPR 2018.

    Examples
    --------
    >>> import fastloss
    >>> fastloss.get_loss("lovasz_hinge").loss_gradient([1, 0, 0], [0.5, 0.0, -3.0])
    (0.75, array([-0.5,  0.5,  0. ]))
    """

    name = "lovasz_hinge"
    link = "sign"
    piecewise_linear = True

    def _terms(self, data: Batch, raw: NDArray, bend: int, n_threads: int | None) -> tuple[float, NDArray, NDArray]:
        if np.isnan(raw).any():
            return math.nan, np.full(len(raw), np.nan), np.full(len(raw) if bend else 0, np.nan)
        return batch.lovasz(raw, data.weight, data.prepared, bend, n_threads)

    def _prepare(self, y: NDArray, weight: NDArray, starts: NDArray) -> NDArray:
        return (y > 0).astype(np.uint8)
