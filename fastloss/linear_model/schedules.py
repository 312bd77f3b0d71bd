"""Step-size schedules: what happens between the epochs of a fit with an explicit `learning_rate`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from sklearn.exceptions import ConvergenceWarning

from fastloss._kernels.sgd import Trainer

# "adaptive" stops instead of lowering a step size that is already below this.
SMALLEST_ADAPTIVE_STEP = 1e-6


@dataclass
class Progress:
    """How one model's training goes; `after_epoch` decides whether it goes on."""

    tol: float | None
    patience: int
    best: float = math.inf
    stalls: int = 0
    n_iter: int = 0
    converged: bool = False
    n_clipped: int = 0
    last_clipped_epoch: int = 0

    def after_epoch(self, objective: float, n_clipped: int) -> bool:
        """Take note of an epoch; True when the last `patience` epochs each failed to gain `tol`."""
        self.n_iter += 1
        if n_clipped:
            self.n_clipped += n_clipped
            self.last_clipped_epoch = self.n_iter
        if self.tol is None:
            return False
        self.stalls = self.stalls + 1 if objective > self.best - self.tol else 0
        self.best = min(self.best, objective)
        return self.stalls >= self.patience


def run_epochs(
    trainer: Trainer, *, max_iter: int, tol: float | None, patience: int, adaptive: bool, verbose: int
) -> list[Progress]:
    """Train until every model converged or `max_iter` epochs are over."""
    progress = [Progress(tol, patience) for _ in range(trainer.n_models)]
    active = set(range(trainer.n_models))
    for epoch in range(1, max_iter + 1):
        trainer.epoch()
        for k in sorted(active):
            if not trainer.finite(k):
                raise overflow(epoch)
            stalled = progress[k].after_epoch(trainer.objective(k), trainer.n_clipped(k))
            if verbose:
                _report(trainer, k, epoch)
            if not stalled:
                continue
            if adaptive and trainer.eta(k) > SMALLEST_ADAPTIVE_STEP:
                trainer.set_eta(k, trainer.eta(k) / 5)
                progress[k].stalls = 0
            else:
                progress[k].converged = True
                trainer.stop(k)
                active.discard(k)
        if not active:
            break
    trainer.finish()
    return progress


def _report(trainer: Trainer, k: int, epoch: int) -> None:
    model = f" model {k}" if trainer.n_models > 1 else ""
    print(
        f"epoch {epoch}{model}: loss {trainer.loss(k):.6g}, objective {trainer.objective(k):.6g}, "
        f"|coef| {trainer.norm(k):.4g}, intercept {trainer.current_intercept(k):.4g}"
    )


def overflow(epoch: int) -> ValueError:
    """The error of a fit whose coefficients are not finite any more."""
    return ValueError(
        f"Floating-point overflow in epoch {epoch}: the coefficients are not finite any more, the fit diverged. "
        "Scale the columns of X (sklearn.preprocessing.StandardScaler) or lower eta0."
    )


def warn_about(progress: Iterable[Progress], max_iter: int) -> None:
    """Say so when the result is not one: diverged, or out of epochs."""
    progress = list(progress)
    n_clipped = sum(p.n_clipped for p in progress)
    if n_clipped:
        last, n_iter = max(p.last_clipped_epoch for p in progress), max(p.n_iter for p in progress)
        warnings.warn(
            f"The fit diverged: in {n_clipped} updates (the last in epoch {last} of {n_iter}) the loss had a derivative"
            " beyond 1e12, which was clipped; the coefficients mean nothing. "
            "Scale the columns of X (sklearn.preprocessing.StandardScaler) or lower eta0.",
            ConvergenceWarning,
            stacklevel=4,
        )
    elif any(p.tol is not None and not p.converged for p in progress):
        warnings.warn(
            f"No convergence within max_iter={max_iter} epochs (tol={progress[0].tol}); "
            "raise max_iter to improve the fit.",
            ConvergenceWarning,
            stacklevel=4,
        )
