"""Batches for the tests of losses over a whole batch."""

import numpy as np

import fastloss

BATCH = fastloss.list_losses(kind="batch")
CASES = [
    ("pairwise_auc", {}),
    ("pairwise_auc", {"surrogate": "hinge"}),
    ("pairwise_auc", {"surrogate": "logistic"}),
    ("lambdarank", {}),
    ("lambdarank", {"normalize": False, "truncation": 3, "sigmoid": 2.0}),
    ("listnet", {}),
    ("listnet", {"targets": "gains"}),
    ("approx_ndcg", {"temperature": 0.5}),
    ("pairwise_logistic", {}),
    ("soft_fbeta", {}),
    ("soft_fbeta", {"beta": 2.0, "smooth": 0.5}),
    ("dice", {}),
    ("tversky", {"alpha": 0.3, "beta": 1.7}),
    ("jaccard", {"smooth": 1.0}),
    ("lovasz_hinge", {}),
]
OVERLAPS = ("soft_fbeta", "dice", "tversky", "jaccard")


def label(case):
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


def batch(name, n, seed=0, dtype=np.float64):
    """(y, raw, weight, keywords): scores on a grid of 1/8 with ties, and no margin of a pair within 1/64 of a kink."""
    rng = np.random.default_rng(seed)
    grouped = fastloss.get_loss(name).grouped
    y = rng.integers(0, 5 if grouped else 2, n).astype(float)
    if name in OVERLAPS and n > 8:
        y[3:7] = rng.integers(1, 16, 4) / 16 + 1 / 32
    raw = rng.integers(-20, 20, n) / 8
    if not grouped:
        raw += np.where(y > 0, 1 / 16, 0)
    weight = rng.integers(0, 5, n) / 2
    if n > 1:
        y[:2], weight[:2] = (0, 1), 1  # there is a pair
    keywords = {"group": sizes(rng, n)} if grouped else {}
    return y, raw.astype(dtype), weight, keywords


def sizes(rng, n):
    """Sizes of groups, some of 0 and 1."""
    cuts = np.sort(rng.integers(0, n + 1, max(1, n // 6)))
    return np.diff(np.concatenate(([0], cuts, [n])))
