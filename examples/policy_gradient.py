"""Policy gradient: REINFORCE on a contextual bandit is cross-entropy with signed weights.

The gradient of the expected reward is the mean of (reward - baseline) · ∇log p(action): that of cross-entropy with the
actions as labels and the advantages, positive or negative, as sample weights.

Run: ``python examples/policy_gradient.py``.
"""

import numpy as np

import fastloss

ACTIONS, FEATURES, BATCH = 4, 5, 500


def entropy_gradient(log_p: np.ndarray) -> np.ndarray:
    """Derivative of the rows' entropies -Σ p log p with respect to the logits: -p (log p + entropy)."""
    p = np.exp(log_p)
    entropy = -np.sum(p * log_p, axis=1, keepdims=True)
    return -p * (log_p + entropy)


def main(steps: int = 300, rate: float = 1.0, bonus: float = 0.01) -> list[float]:
    """Learn by trial and error; print and return the expected reward on the way."""
    rng = np.random.default_rng(0)
    truth = 2 * rng.normal(size=(FEATURES, ACTIONS))
    X_test = rng.normal(size=(5000, FEATURES))

    def chances(X: np.ndarray) -> np.ndarray:
        """Each action's probability of a reward; the learner sees only whether the action it took was rewarded."""
        return 1 / (1 + np.exp(-(X @ truth)))

    loss = fastloss.losses.CrossEntropy(allow_negative_weight=True)
    W, expected = np.zeros((FEATURES, ACTIONS)), []
    for step in range(steps + 1):
        if step % 50 == 0:
            expected.append(float(np.mean(np.sum(fastloss.softmax(X_test @ W) * chances(X_test), axis=1))))
            print(f"step {step:3d}: expected reward {expected[-1]:.3f}")
        X = rng.normal(size=(BATCH, FEATURES))
        log_p = fastloss.log_softmax(X @ W)
        action = np.argmax(log_p + rng.gumbel(size=log_p.shape), axis=1)  # a draw from every row's distribution
        reward = (rng.uniform(size=BATCH) < chances(X)[np.arange(BATCH), action]).astype(float)
        # "sum": the advantages add up to 0, so there is no mean weighted by them
        gradient = loss.gradient(action, X @ W, reward - reward.mean(), reduction="sum")
        gradient -= bonus * entropy_gradient(log_p)  # keeps trying actions that seem worse
        W -= rate * X.T @ gradient / BATCH
    best = float(np.mean(np.max(chances(X_test), axis=1)))
    print(f"best possible: {best:.3f}")
    assert expected[0] < expected[1] < expected[-1]
    assert best - expected[-1] < (best - expected[0]) / 8
    return expected


if __name__ == "__main__":
    main()
