"""Runs the doors, one case after the other, and saves the report."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from benchmarks import classes, estimators, kernels, machine, objective, own, peers, timing
from benchmarks.peers import Run
from benchmarks.report import Report, Row, Table

RESULTS = Path(__file__).resolve().parent / "results"

#: Name on the command line -> module with the functions of `Door`.
DOORS: dict[str, ModuleType] = {
    "kernels": kernels,
    "classes": classes,
    "objective": objective,
    "estimators": estimators,
    "own": own,
}


class Door(Protocol):
    """The names of a door's module."""

    PLANS: dict[str, Any]
    """"quick", "default" and "full" -> what to measure, in the door's own terms."""

    def cases(self, plan: Any) -> list[Any]:
        """What is measured one after the other."""

    def measure(self, case: Any, plan: Any, run: Run) -> list[Row]:
        """Figures of one case."""

    def failed(self, case: Any, error: Exception) -> Row:
        """The row of a case that raised."""

    def tables(self, rows: list[Row], plan: Any, run: Run) -> list[Table]:
        """The door's tables."""


def run(
    level: str,
    doors: list[str],
    peer_names: list[str],
    threads: tuple[int, ...],
    command: str,
    keep_memory: bool = True,
) -> Report:
    """Measure and print: the machine sheet first, then each door's tables as soon as they are there."""
    started = time.perf_counter()
    kept = keep_memory and timing.keep_freed_memory()
    found, missing = peers.load(peer_names)
    context = Run(tuple(found), threads)
    report = Report(
        f"fastloss benchmarks, {datetime.date.today()}" + (f", {level}" if level != "default" else ""),
        {
            "schema": 1,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command,
        },
    )
    triad = machine.triad_bandwidth(threads, machine.triad_size())
    read = machine.read_bandwidth(threads, machine.triad_size())
    report.machine = machine.sheet(threads, triad, read) | {
        "freed memory": "kept by the process: large temporaries cost few page faults"
        if kept
        else "C library's default",
        "peers": ", ".join([f"{peer.NAME} {peer.version()}" for peer in found]) or "none",
        **({"peers not measured": "; ".join(f"{name}: {why}" for name, why in missing.items())} if missing else {}),
    }
    report.facts |= {
        "level": level,
        "threads": list(threads),
        "triad_bytes_per_second": _text_keys(triad),
        "read_bytes_per_second": _text_keys(read),
    }
    print(report.sheet(), flush=True)
    try:
        for name in doors:
            for table in measure(DOORS[name], DOORS[name].PLANS[level], context, name):
                report.tables.append(table)
                print(f"\n{table.as_text()}", flush=True)
    except KeyboardInterrupt:
        report.facts["interrupted"] = True
        report.heading += " (interrupted)"
    report.facts["seconds"] = round(time.perf_counter() - started, 1)
    return report


def measure(door: Any, plan: Any, context: Run, name: str) -> list[Table]:
    """All cases of a door; one that raises becomes a row that says so."""
    rows: list[Row] = []
    with progress(door.cases(plan), name) as cases:
        for case in cases:
            try:
                rows += door.measure(case, plan, context)
            except Exception as error:
                rows.append(door.failed(case, error))
    return door.tables(rows, plan, context)


@contextlib.contextmanager
def progress(cases: list, name: str) -> Iterator[Any]:
    """The cases, under a progress bar when standard error is a terminal and tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield cases
        return
    with tqdm(cases, desc=name, unit="case", leave=False, disable=not sys.stderr.isatty()) as bar:
        yield bar


def save(report: Report, path: Path) -> tuple[Path, Path]:
    """Write JSON to ``path`` and Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    text = path.with_suffix(".md")
    text.write_text(report.as_markdown(), encoding="utf-8")
    return path, text


def default_path() -> Path:
    from fastloss import _kernels

    return RESULTS / f"{datetime.date.today()}-{_kernels.current_isa()}.json"


def failures(report: Report) -> list[str]:
    """What of fastloss failed: rows that raised, or whose result was not the one that was checked."""
    return [f"{table.name}: {label}" for table in report.tables for label in table.failures("fastloss")]


def _text_keys(figures: dict[int, float]) -> dict[str, float]:
    return {str(key): value for key, value in figures.items()}
