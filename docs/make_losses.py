"""Write docs/losses.md from the loss classes: ``python docs/make_losses.py``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import fastloss
from fastloss.losses import Loss, get_class

PAGE = Path(__file__).with_name("losses.md")
COLUMNS = ("Name", "Loss", "Parameters", "`y_true`", "`predict` gives", "Convex", "Hessians")
ESTIMATES = {
    "identity": "raw",
    "log": "exp(raw)",
    "logit": "probability",
    "sign": "side, 0 or 1",
    "softmax": "probabilities",
    "argmax": "likeliest class",
}
FAMILIES = ("regression", "counts", "binary", "multiclass")
POLICIES = ("fisher", "upper_bound")
HEAD = """\
# The losses

Written by `python docs/make_losses.py` from the classes in `fastloss/losses/`; change those, not this page.

`fastloss.get_loss(name, **parameters)` makes a loss; the class of a name is its name in camel case,
`fastloss.losses.SquaredError`. Notation: raw is the raw prediction, r = raw − y, s the label as ±1, m = s·raw,
p = 1/(1 + exp(−raw)), p_t the probability given to the true class. For several classes raw is (n, K) with scores z_k,
p_k their softmax and y the true class.

* **Parameters**: name = default (what is allowed). All are keywords.
* **`predict` gives**: what the raw prediction estimates, see `Loss.predict`.
* **Hessians**: what `gradient_hessian(..., hessian=...)` takes beside `"exact"`; for `"upper_bound"` the bound for the
  default parameters. Piecewise linear losses have no curvature; their upper bound is 1 by convention.

Gradients, kinks, references and an example stand in each class's docstring.
"""


def page() -> str:
    """The text of docs/losses.md."""
    families: dict[str, list[type[Loss]]] = {}
    for cls in map(get_class, fastloss.list_losses()):
        families.setdefault(cls.__module__, []).append(cls)
    order = sorted(families, key=lambda module: FAMILIES.index(module.rpartition(".")[2]))
    return "\n".join([HEAD, *(_section(module, families[module]) for module in order)])


def _section(module: str, classes: list[type[Loss]]) -> str:
    title = _first_sentence(sys.modules[module]).split(".")[0]
    rows = [_line(COLUMNS), _line("---" for _ in COLUMNS), *(_line(_cells(cls)) for cls in classes)]
    return "\n".join([f"## {title}", "", *rows, ""])


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(cls: type[Loss]) -> tuple[str, ...]:
    cells = (_first_sentence(cls), _parameters(cls), cls.target, _estimate(cls), _convex(cls), _hessians(cls()))
    return (f"`{cls.name}`", *(cell.replace("|", "\\|") for cell in cells))


def _first_sentence(documented) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0].removesuffix(".")


def _parameters(cls: type[Loss]) -> str:
    described = (f"`{name}={spec.default}` ({spec.describe()})" for name, spec in cls.parameters.items())
    return "<br>".join(described) or "–"


def _estimate(cls: type[Loss]) -> str:
    # The losses of two classes that override it correct, or find, a probability.
    corrected = cls._estimate is not Loss._estimate and cls.kind != "multiclass"
    return "probability" if corrected else ESTIMATES[cls.link]


def _convex(cls: type[Loss]) -> str:
    if cls.convex is not Loss.convex:
        when = _first_sentence(cls.convex)
        return when[0].lower() + when[1:]
    return "yes" if cls.always_convex else "no"


def _hessians(loss: Loss) -> str:
    return "<br>".join(filter(None, (_hessian(loss, policy) for policy in POLICIES))) or "–"


def _hessian(loss: Loss, policy: str) -> str:
    try:
        raw = [[0.0, 0.0]] if loss.kind == "multiclass" else [0.0]
        _, hessian = loss.gradient_hessian([1], raw, hessian=policy)
    except ValueError:
        return ""
    return f"`{policy}`" + (f" ({hessian.flat[0]:.4g})" if policy == "upper_bound" else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
