"""Is a loss what it says? check_loss looks at its numbers: here at every loss of the library, and at a broken one.

Run: ``python examples/check_loss.py``.
"""

import fastloss


class Doubled(fastloss.losses.LogCosh):
    """2 log cosh r, for which somebody forgot to double the gradient."""

    def loss(self, *arrays, **options):
        """Twice the value of the class above."""
        return 2 * super().loss(*arrays, **options)

    def loss_gradient(self, *arrays, **options):
        """Twice the value, and the gradient as it was."""
        value, gradient = super().loss_gradient(*arrays, **options)
        return 2 * value, gradient


def library() -> list[str]:
    """A line for every loss; the names of those with a problem."""
    wrong = []
    for name in fastloss.list_losses():
        report = fastloss.check_loss(name)
        shape = f"{'convex' if report.convex else '':<7}{'smooth' if report.smooth else 'kinks':<7}"
        print(f"{name:<28}{shape} Lipschitz {report.lipschitz:<10.3g} curvature {report.curvature:.3g}")
        wrong += [name] * (not report.ok)
    return wrong


def main() -> dict[str, object]:
    """Check all; return the library's broken losses and the report of the broken one."""
    wrong = library()
    report = fastloss.check_loss(Doubled())
    print(f"\n{report}")
    return {"wrong": wrong, "report": report}


if __name__ == "__main__":
    main()
