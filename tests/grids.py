"""Inputs that are worth a test: adversarial and random points, for one working dtype."""

import numpy as np
from oracle import ORACLES

# Where exp overflows, underflows, becomes subnormal, or stops mattering beside 1, in either dtype; and whole numbers.
THRESHOLDS = [
    *(0.1, 0.5, 0.9999, 1.0, 1.0001, 2.0, 2.718281828459045, 5.0, 10.0, 15.9424, 16.635532333438686, 17.0, 18.0),
    *(20.0, 33.3, 36.04365338911715, 36.7368005696771, 37.0, 40.0, 43.668, 50.0, 80.0, 87.33654475055310, 88.0),
    *(88.3762626647949, 88.72283905206835, 88.73, 89.0, 92.0, 103.27892990343184, 103.9720770839918, 104.0, 120.0),
    *(176.75, 177.5, 206.0, 354.891356446692, 355.5, 372.0, 500.0, 700.0, 708.3964185322641, 709.782712893384),
    *(709.79, 710.0, 710.5, 745.1332191019411, 745.14, 746.0, 800.0, 1000.0, 1420.0, 1491.0, 1e4, 1e8, 1e15),
]


def magnitudes(dtype):
    """Sizes that stress exponent ranges: subnormals, the square root of the largest number, the largest number."""
    info = np.finfo(dtype)
    tiny, eps, huge = float(info.tiny), float(info.eps), float(info.max)
    root, edge = huge**0.5, tiny**0.5
    return [
        *(0.0, float(info.smallest_subnormal), 3 * float(info.smallest_subnormal), tiny / 3, tiny, tiny * (1 + eps)),
        *(1e-300, 1e-200, edge / 2, edge, 2 * edge, 1e-30, 1e-20, 1e-12, eps * eps, eps / 4, eps, 3 * eps),
        *(eps**0.5, 1e-5, 1e-4, 1e-3, 0.01, 1 - eps / 2, 1 + eps),
        *(1e19, root / 2, root, 1.3 * root, 1.42 * root, 3 * root, 1e30, 1e38, 1e154, 1e200, 1e300),
        *(huge / 4, huge / 2, huge),
    ]


def neighbourhood(kink, dtype):
    """A kink, its neighbours in the dtype on both sides, and points a little further off."""
    kink = dtype(kink)
    up, down = np.nextafter(kink, dtype(np.inf)), np.nextafter(kink, dtype(-np.inf))
    near = [kink, up, down, np.nextafter(up, dtype(np.inf)), np.nextafter(down, dtype(-np.inf))]
    return [*near, kink * dtype(1.001), kink * dtype(0.999), kink * dtype(1.3), kink * dtype(0.7)]


def scores(dtype, kinks, n_random, seed, hard=()):
    """Raw predictions: every adversarial point with both signs, then random ones at several scales."""
    dtype = np.dtype(dtype).type
    rng = np.random.default_rng(seed)
    edge = 800.0 if dtype is np.float64 else 110.0
    with np.errstate(over="ignore", under="ignore"):
        fixed = np.array([*magnitudes(dtype), *THRESHOLDS, *hard]).astype(dtype)
        fixed = np.concatenate([fixed, *(neighbourhood(k, dtype) for k in kinks)]).astype(dtype)
        fixed = fixed[np.isfinite(fixed)]
        part = -(-n_random // 5)
        random = np.concatenate(
            [
                rng.normal(size=part),
                5 * rng.normal(size=part),
                rng.uniform(-20, 20, part),
                rng.uniform(-edge, edge, part),
                rng.choice([-1, 1], part) * 10 ** rng.uniform(-30, 30, part),
            ]
        ).astype(dtype)
    points = np.unique(np.concatenate([fixed, -fixed]))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    return np.concatenate([points, special, random])


def filled(params, spec):
    """Every parameter of a loss, for the functions that say where its kinks and targets are."""
    return {**spec.defaults, **params}


def samples(name, params, dtype, n_random=60, seed=0, soft=False):
    """(y, raw) to try for a loss: raw predictions beside labels, targets or other numbers of its domain."""
    spec, dtype = ORACLES[name], np.dtype(dtype).type
    rng = np.random.default_rng([seed, 1])
    known = filled(params, spec)
    kinks = [k if k is not None else np.finfo(dtype).eps for k in spec.kinks(**known)]
    raw = scores(dtype, kinks, n_random, seed, spec.hard)
    if spec.kind == "binary":
        labels = [0.3, 1e-6, 1 - 1e-6, 0.5, 0.97] if soft else [0.0, 1.0]
        if soft:
            y = np.resize(np.array(labels, dtype), raw.size)
            return y[rng.permutation(raw.size)], raw
        return np.repeat(np.array(labels, dtype), raw.size), np.tile(raw, 2)
    if spec.takes == "difference":
        near = rng.normal(size=40).astype(dtype) * 10
        far = np.array([0.0, np.inf, np.inf, -np.inf, np.nan, np.inf, 1.0], dtype)
        against = np.array([np.inf, np.inf, -np.inf, 3.0, 1.0, np.nan, np.nan], dtype)
        y = np.concatenate([np.zeros_like(raw), near, against])
        return y, np.concatenate([raw, near + rng.normal(size=40).astype(dtype), far])
    targets = np.array(spec.targets(**known), dtype)
    y = np.tile(np.resize(targets, raw.size)[rng.permutation(raw.size)], 2)
    y[raw.size :] = np.roll(y[: raw.size], 1)
    y = np.concatenate([y, [dtype(np.nan)]])
    return y, np.concatenate([raw, raw, [dtype(0.5)]])


def everyday(name, params=(), n=200, dtype=np.float64, seed=0, outputs=None):
    """(y, raw) of everyday size in a loss's domain; shape (n,), or (n, outputs)."""
    spec = ORACLES[name]
    params = dict(params)
    known = filled(params, spec)
    rng = np.random.default_rng([seed, 2])
    shape = (n,) if outputs is None else (n, outputs)
    raw = rng.normal(size=shape) * 3
    if spec.kind == "binary":
        y = rng.integers(0, 2, shape).astype(float)
    elif spec.takes == "difference":
        y = rng.normal(size=shape)
    else:
        targets = np.array([t for t in spec.targets(**known) if abs(t) < 100])
        y = rng.choice(targets, shape)
        if not spec.domain(-2.0, -2.0, **known):
            raw = np.abs(raw) - 0.5
    return y.astype(dtype), raw.astype(dtype)


def smooth(name, params=(), n=200, dtype=np.float64, seed=0):
    """(y, raw, step): everyday points at least 3 steps away from kinks, where differences give derivatives.

    The step follows the loss's own length, so that a loss of width 0.001 is looked at inside its width too.
    """
    spec = ORACLES[name]
    params = dict(params)
    known = filled(params, spec)
    y, raw = everyday(name, params, n, np.float64, seed)
    length = min((v for k, v in known.items() if k in ("delta", "scale")), default=1.0)
    length = min(length, 1.0)
    if spec.takes in ("difference", "relative"):
        raw = y + (raw - y) * length
    if dtype != np.float64:
        y, raw = y.astype(dtype).astype(float), raw.astype(dtype).astype(float)
    step = 1e-3 * length
    variable = {"difference": raw - y, "relative": raw - y, "margin": (2 * y - 1) * raw}.get(spec.takes, raw)
    kinks = np.array([k for k in spec.kinks(**known) if k is not None], float)
    kinks = np.concatenate([kinks, -kinks, [np.inf]])
    keep = np.abs(variable[:, None] - kinks).min(axis=1) > 3 * step
    return y[keep], raw[keep], step
