"""A torch network trained with losses that torch does not have: three quantiles at once, then a robust mean.

Run: ``python examples/torch_loss.py`` (needs torch).
"""

try:
    import torch
except ImportError:
    torch = None

LEVELS = (0.1, 0.5, 0.9)


def data(n: int, seed: int):
    """A wave whose noise grows along the way, with a long right tail."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(n, 1, generator=generator)
    noise = torch.rand(n, generator=generator).clamp_min(1e-6).log().neg()
    return x, torch.sin(2 * x[:, 0]) + (0.1 + 0.2 * x[:, 0]) * noise


def train(outputs: int, criterion, x, y):
    """A small network and Adam; only the criterion is ours."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, outputs)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 200)
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return model


def quantiles() -> dict[str, float]:
    """Three quantiles by one network; the share of new targets below each."""
    from fastloss.interop.torch import Loss

    criteria = [Loss("quantile", quantile=level) for level in LEVELS]
    x, y = data(2000, seed=0)
    model = train(len(LEVELS), lambda raw, y: sum(c(raw[:, k], y) for k, c in enumerate(criteria)), x, y)
    x_new, y_new = data(20_000, seed=1)
    with torch.no_grad():
        below = (y_new[:, None] <= model(x_new)).double().mean(dim=0)
    return {str(level): float(share) for level, share in zip(LEVELS, below, strict=True)}


def robust_mean() -> dict[str, float]:
    """One output and targets of which 5 % are far off; the median distance from the targets as they were."""
    from fastloss.interop.torch import loss

    x, y = data(2000, seed=0)
    spoilt = torch.where(torch.arange(len(y)) % 20 == 0, y + 50, y)
    model = train(1, lambda raw, y: loss("welsch", raw[:, 0], y, scale=2.0), x, spoilt)
    with torch.no_grad():
        return {"robust": float((model(x)[:, 0] - y).abs().median())}


def main() -> dict[str, float] | None:
    """Train both; print and return their measures."""
    if torch is None:
        print("torch is not installed")
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers so small are faster without
    measures = quantiles() | robust_mean()
    torch.set_num_threads(threads)
    for name, measure in measures.items():
        print(f"{name:<7} {measure:.3f}")
    print("share of new targets below the quantiles; median distance of the robust mean from unspoilt targets")
    return measures


if __name__ == "__main__":
    main()
