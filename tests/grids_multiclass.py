"""Rows of scores that are worth a test: adversarial and random ones, for one working dtype and number of classes."""

import functools
import os

import numpy as np
from oracle_multiclass import ORACLES, reference

RANDOM = int(os.environ.get("FASTLOSS_TEST_POINTS", "60"))
ROWS = {1: 40, 2: 150, 3: 130, 10: 60, 64: 14, 65: 12, 100: 10, 1000: 5}
"""Numbers of classes, and how many rows of each: exact values take a while."""

# Gaps between the largest score and another: where exp stops mattering beside 1, turns subnormal, underflows.
GAPS = [
    *(0.5, 1.0, 2.0, 5.0, 15.9424, 17.0, 20.0, 36.0, 36.7368, 37.5, 40.0, 85.0, 87.3365, 88.0, 90.0, 95.0, 103.0),
    *(103.9, 104.5, 120.0, 354.9, 700.0, 708.3, 709.0, 720.0, 744.0, 745.2, 746.0, 1e4, 1e8, 1e17, 1e30),
]


def label(case):
    """A readable name of (loss, parameters, soft or not)."""
    name, params, *soft = case
    text = "-".join([name, *(f"{k}={v}" for k, v in params.items())])
    return text + "-soft" if any(soft) else text


def every_case(soft=True):
    """(name, params, soft targets) of every multiclass loss."""
    for name, spec in ORACLES.items():
        for params in spec.parameter_sets:
            yield name, params, False
            if soft and spec.soft:
                yield name, params, True


def one_apart(K, dtype):
    """Rows where one score differs from all others, by every gap and in both directions, at different places."""
    places = [0, K - 1, K // 2]
    for i, gap in enumerate(GAPS):
        for sign in (1, -1):
            row = np.zeros(K, dtype)
            row[places[(i + (sign < 0)) % 3]] = sign * gap
            yield row


def equal(K, dtype):
    """Ties of every size of number: everywhere, or between the first and the last."""
    huge = float(np.finfo(dtype).max)
    for size in (0.0, -0.0, 1.0, -3.7, 1e8, -1e8, 1e17, 1e30, huge / 4, huge, -huge, float(np.finfo(dtype).tiny) / 8):
        yield np.full(K, size, dtype)
        row = np.full(K, size - 1 - abs(size) * 1e-3, dtype)
        row[[0, K - 1]] = size
        yield row


def special(K, dtype):
    """Infinities, NaN, and differences that overflow."""
    inf, nan, huge = np.inf, np.nan, float(np.finfo(dtype).max)
    ordinary = np.linspace(-1, 2, K)
    for place in {0, K - 1, K // 2}:
        for value in (inf, -inf, nan, huge, -huge):
            row = ordinary.copy()
            row[place] = value
            yield row.astype(dtype)
    for first, rest, last in (
        (inf, 0, inf),
        (-inf, 0, -inf),
        (0, -inf, 0),
        (-inf, -inf, 1),
        (2, -inf, -inf),
        (inf, -inf, -inf),
        (inf, -inf, inf),
        (inf, inf, inf),
        (-inf, -inf, -inf),
        (huge, -huge, 0),
        (nan, inf, -inf),
        (nan, nan, nan),
    ):
        row = np.full(K, rest, dtype)
        row[K - 1] = last
        row[0] = first
        yield row


def close(K, dtype):
    """Neighbours in the dtype, and differences that are subnormal."""
    tiny = np.finfo(dtype).tiny
    for size in (1.0, 37.0, 1000.0):
        row = np.full(K, size, dtype)
        row[K // 2] = np.nextafter(dtype.type(size), dtype.type(np.inf))
        yield row
    yield np.arange(K).astype(dtype) * (tiny / dtype.type(4))
    yield np.arange(K).astype(dtype) * dtype.type(1e-9)
    edge = 88.0 if dtype == np.float32 else 709.0
    for span in (edge, 1.15 * edge, 3.0):
        yield -np.linspace(0, span, K).astype(dtype)


def random(K, dtype, rng):
    """Endless random rows at every scale."""
    while True:
        for scale in (1.0, 3.0, 0.1, 30.0, 10.0, 1e-3, 300.0, 1e4):
            yield (scale * rng.normal(size=K) + rng.choice([0.0, 0.0, 40.0, -500.0])).astype(dtype)


def thinned(rows, count):
    """That many of the rows, spread evenly."""
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)))]


def scores(K, dtype, count=None, seed=0):
    """About ``count`` rows: adversarial ones of every sort, and random ones."""
    dtype, rng = np.dtype(dtype), np.random.default_rng([seed, K])
    count = ROWS[K] if count is None else count
    with np.errstate(over="ignore", under="ignore"):
        sorts = [list(make(K, dtype)) for make in (one_apart, equal, special, close)]
        shares = [0.3, 0.15, 0.2, 0.1]
        rows = [
            row
            for sort, share in zip(sorts, shares, strict=True)
            for row in thinned([sort[i] for i in rng.permutation(len(sort))], max(1, int(share * count)))
        ]
        more = random(K, dtype, rng)
        rows += [next(more) for _ in range(max(count - len(rows), count * RANDOM // 240))]
    return np.stack(rows)


def without_equal_infinities(raw, y):
    """Which rows leave a margin defined: the true class and the best other one are not the same infinity."""
    keep = []
    for z, k in zip(raw, y, strict=True):
        others = np.delete(z, k)
        keep.append(not (others.size and np.isinf(z[k]) and others.max() == z[k]) and not (z.size == 1 and np.isinf(z)))
    return np.array(keep)


def labels_for(raw, rng):
    """Labels that are by turns the best class, the worst, any class, the first and the last."""
    n, K = raw.shape
    filled = np.where(np.isnan(raw), 0, raw)
    choices = [filled.argmax(axis=1), filled.argmin(axis=1), rng.integers(0, K, n), np.zeros(n, int), np.full(n, K - 1)]
    return np.choose(np.arange(n) % 5, choices)


def soft_targets(n, K, dtype, rng):
    """Rows that are probabilities, contain zeros, are one-hot, do not sum to 1, or are empty."""
    y = rng.dirichlet(np.full(K, 0.5), n)
    y[1::7] = np.eye(K)[rng.integers(0, K, len(y[1::7]))]
    y[2::7] *= 3.5
    y[3::7, : K // 2] = 0
    y[4::7] = rng.choice([0.0, 1e-6, 1.0], (len(y[4::7]), K))
    y[5::21] = 0
    return y.astype(dtype)


def samples(name, dtype, K, soft=False, seed=0):
    """(y, raw) to try for a loss with K classes."""
    rng = np.random.default_rng([seed, K, 1])
    raw = scores(K, dtype, seed=seed)
    raw = raw[rng.permutation(len(raw))]
    if soft:
        return soft_targets(len(raw), K, dtype, rng), raw
    y = labels_for(raw, rng)
    if ORACLES[name].margin:
        keep = without_equal_infinities(raw, y)
        y, raw = y[keep], raw[keep]
    return y, raw


@functools.cache
def _exact(name, params, soft, dtype, K):
    y, raw = samples(name, dtype, K, soft)
    return y, raw, reference(name, dict(params), y, raw)


def exact_values(name, params, soft, dtype, K):
    """(y, raw, [three references]); computed once, shared by instruction sets and orders."""
    return _exact(name, tuple(params.items()), soft, np.dtype(dtype), K)


def everyday(n=200, K=4, dtype=np.float64, seed=0, scale=3.0):
    """(labels, raw) of everyday size."""
    rng = np.random.default_rng([seed, n, K])
    raw = (scale * rng.normal(size=(n, K))).astype(dtype)
    return rng.integers(0, K, n), raw


def everyday_soft(n=200, K=4, dtype=np.float64, seed=0):
    """(probabilities, raw) of everyday size."""
    rng = np.random.default_rng([seed, n, K, 1])
    return rng.dirichlet(np.ones(K), n).astype(dtype), everyday(n, K, dtype, seed)[1]
