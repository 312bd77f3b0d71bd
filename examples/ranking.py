"""Linear models that rank documents within queries: losses over groups of rows, compared by NDCG.

Queries, documents and grades are LightGBM's example data, if the folder FASTLOSS_DATA has ``lgb_lambdarank.npz``; else
synthetic ones.

Run: ``python examples/ranking.py``.
"""

import os
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import ndcg_score

import fastloss


def queries():
    """Name, and (X, grades, sizes of the queries) to learn from and to test on."""
    file = Path(os.environ.get("FASTLOSS_DATA", "")) / "lgb_lambdarank.npz"
    if file.is_file():
        table = np.load(file)
        parts = []
        for prefix in ("", "test_"):
            X = sp.csr_matrix(
                tuple(table[prefix + key] for key in ("data", "indices", "indptr")),
                shape=tuple(table[prefix + "shape"]),
            )
            starts = np.flatnonzero(np.diff(table[prefix + "qid"], prepend=-1))
            parts.append((X.astype(np.float64), table[prefix + "y"], np.diff(starts, append=X.shape[0])))
        return "lgb_lambdarank", *parts
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 20))
    of_query = np.repeat(rng.normal(size=300), 20)  # how well a query does on the whole, which no ranking needs
    grade = np.clip(np.round(X[:, :5] @ np.linspace(0.2, 1, 5) + 2 * of_query + rng.normal(size=6000)), 0, 4)
    return "synthetic queries", (X[:4000], grade[:4000], [20] * 200), (X[4000:], grade[4000:], [20] * 100)


def ndcg(grades, scores, sizes) -> float:
    """Mean NDCG@10 of the queries that have something to find."""
    ends = np.cumsum(sizes)
    spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    return float(np.mean([ndcg_score([2.0 ** grades[s] - 1], [scores[s]], k=10) for s in spans if grades[s].max() > 0]))


def main() -> dict[str, float]:
    """Fit each loss; print and return NDCG@10 on held-out queries."""
    name, (X, grades, sizes), (X_test, grades_test, sizes_test) = queries()
    print(f"{name}: {len(sizes)} queries, {X.shape[0]} documents, {X.shape[1]} columns")
    found = {}
    for loss in ("squared_error", "pairwise_logistic", "listnet", fastloss.losses.ApproxNdcg(temperature=1.0)):
        group = {} if loss == "squared_error" else {"group": sizes}
        objective = fastloss.LinearObjective(X, grades, loss, alpha=0.01, **group)
        coef, _ = objective.unpack(objective.minimize().x)
        found[objective.loss.name] = ndcg(grades_test, X_test @ coef, sizes_test)
        print(f"{objective.loss.name:17s}  NDCG@10 {found[objective.loss.name]:.4f} on held-out queries")
    return found


if __name__ == "__main__":
    main()
