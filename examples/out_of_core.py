"""A table that is not in memory: batches of a Parquet file, one after the other.

Run: ``python examples/out_of_core.py``; it needs pyarrow.
"""

import tempfile
from pathlib import Path

import numpy as np

import fastloss

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    pa = pq = None

ROWS_PER_GROUP = 5_000
SCALES = np.array([1e-3, 1.0, 50.0, 2000.0])


def table(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of very different sizes, and a label that depends on all of them."""
    rng = np.random.default_rng(seed)
    standard = rng.normal(size=(n, 4))
    y = standard @ [1.5, -2.0, 1.0, 0.5] + rng.logistic(size=n) > 1
    return (standard + 3) * SCALES, np.where(y, "yes", "no")


def write(path: Path, groups: int) -> None:
    """A Parquet file, a group of rows at a time."""
    names = ["a", "b", "c", "d"]
    writer = None
    for group in range(groups):
        X, y = table(ROWS_PER_GROUP, seed=group)
        rows = pa.table(dict(zip(names, X.T, strict=True)) | {"label": y})
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)
    writer.close()


def batches(path: Path):
    """(X, y) of some thousand rows at a time: only they are in memory."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=2_000):
        columns = [batch.column(name).to_numpy() for name in batch.schema.names if name != "label"]
        yield np.column_stack(columns), np.array(batch.column("label").to_pylist())


def main() -> float | None:
    """Print and return the share of right labels among new rows; None without pyarrow."""
    if pa is None:
        print("pyarrow is not installed: nothing to read Parquet with")
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        write(path, groups=8)
        # the penalty is on coefficients in the columns' own units: a column of size 1e-3 needs one of 1e3
        model = fastloss.SGDLossClassifier(loss="log_loss", alpha=1e-8, random_state=0)
        # a function, not a generator: it is read once per epoch
        model.fit_stream(lambda: batches(path), epochs=2, classes=["no", "yes"])
    right = float(model.score(*table(20_000, seed=1000)))
    print(f"{100 * right:.1f} % of new labels are right; sizes of columns: {', '.join(f'{size:g}' for size in SCALES)}")
    return right


if __name__ == "__main__":
    main()
