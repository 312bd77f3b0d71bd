"""Tables: as text for the terminal, as Markdown for a page, as JSON for a program."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Missing:
    """A cell without a figure: what kind of absence, and why (shown under the table)."""

    kind: str  # "n/a", "failed", "diverged" or "not converged"
    reason: str

    @classmethod
    def failed(cls, error: Exception) -> Missing:
        return cls("failed", f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Column:
    """A column: the key of its cells, its heading (under ``group``, if any) and how a figure is written."""

    key: str
    heading: str
    write: Callable[[Any], str] = str
    group: str = ""
    left: bool = False

    @property
    def title(self) -> str:
        return f"{self.group} {self.heading}".strip()


@dataclass
class Table:
    """Rows of cells: a figure, a Missing, or absent (blank). Keys that no column shows go to JSON only."""

    name: str
    title: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        return [[_write(row.get(column.key), column.write) for column in self.columns] for row in self.rows]

    def absences(self) -> list[str]:
        """One line for each different reason of a Missing cell, with the rows it concerns."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            for column in self.columns:
                value = row.get(column.key)
                if isinstance(value, Missing):
                    where = found.setdefault(f"{value.kind}: {value.reason}", [])
                    label = self._label(row, 1 if value.kind == "n/a" else None)
                    if label not in where:
                        where.append(label)
        return [f"{reason} ({_abridged(where)})" for reason, where in found.items()]

    def failures(self, group: str) -> list[str]:
        """Labels of the rows in which a cell of ``group`` (or of no group) failed."""
        columns = [column for column in self.columns if column.group in ("", group)]
        return [self._label(row) for row in self.rows if any(_is_failure(row.get(c.key)) for c in columns)]

    def _label(self, row: Row, count: int | None = None) -> str:
        """The first ``count`` of the cells that say what a row is about."""
        columns = [column for column in self.columns if column.left][:count]
        return " ".join(filter(None, (_write(row.get(column.key), column.write) for column in columns)))

    def as_text(self) -> str:
        """Aligned columns, peers as groups over their columns."""
        cells = self.cells()
        widths = _widths([column.heading for column in self.columns], cells)
        groups = _group_line(self.columns, widths)
        heading = _aligned([column.heading for column in self.columns], widths, self.columns)
        body = [_aligned(row, widths, self.columns) for row in cells]
        rule = "-" * max(map(len, [heading, *body]))
        lines = [self.title, "=" * len(self.title), *([groups] if groups else []), heading, rule, *body]
        footer = [textwrap.fill(line, 118, subsequent_indent="    ") for line in self._footer("  ")]
        return "\n".join([*(line.rstrip() for line in lines), *footer])

    def as_markdown(self) -> str:
        titles = [column.title for column in self.columns]
        cells = self.cells()
        widths = [max(w, 3) for w in _widths(titles, cells)]
        rule = [("-" * w if c.left else "-" * (w - 1) + ":") for c, w in zip(self.columns, widths, strict=True)]
        lines = [f"## {self.title}", ""]
        lines += ["| " + _aligned(row, widths, self.columns, " | ") + " |" for row in [titles, rule, *cells]]
        return "\n".join([*lines, *self._footer("* ")])

    def as_json(self) -> dict:
        return {
            "name": self.name,
            "title": self.title,
            "notes": self.notes,
            "columns": [{"key": column.key, "title": column.title} for column in self.columns],
            "rows": [plain(row) for row in self.rows],
        }

    def _footer(self, bullet: str) -> list[str]:
        lines = [bullet + line for line in self.notes + self.absences()]
        return ["", *lines] if lines else []


@dataclass
class Report:
    """Machine sheet and tables of one run."""

    heading: str
    facts: dict[str, Any]  # date, command, level and the like: for JSON
    machine: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    def sheet(self) -> str:
        """Heading and machine sheet as text: what can be shown before anything is measured."""
        width = max(map(len, self.machine))
        lines = [f"{label:<{width}}  {value}" for label, value in self.machine.items()]
        return "\n".join([self.heading, "=" * len(self.heading), *lines])

    def as_text(self) -> str:
        return "\n\n".join([self.sheet(), *(table.as_text() for table in self.tables)])

    def as_markdown(self) -> str:
        machine = "\n".join(f"* {label}: {value}" for label, value in self.machine.items())
        parts = [f"# {self.heading}", machine, *(table.as_markdown() for table in self.tables)]
        return "\n\n".join(parts) + "\n"

    def as_json(self) -> dict:
        return {**self.facts, "machine": self.machine, "tables": [table.as_json() for table in self.tables]}


# ---- figures --------------------------------------------------------------------------------------


def significant(digits: int) -> Callable[[float], str]:
    """Write with that many significant digits, without exponent below 100000."""

    def write(value: float) -> str:
        if not math.isfinite(value):
            return str(value)
        if value != 0 and not 1e-3 <= abs(value) < 1e5:
            return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
        whole = math.floor(math.log10(abs(value))) + 1 if value else 1
        return f"{value:.{max(digits - whole, 0)}f}"

    return write


def ratio(value: float) -> str:
    return significant(3 if value >= 10 else 2)(value) + "x"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def ulp_pair(pair: Sequence[float | None]) -> str:
    """Errors of loss and gradient; a part that cannot be given is a dash."""
    return " / ".join("-" if value is None else significant(2)(value) for value in pair)


# ---- helpers --------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The value in JSON's own types; Missing becomes {kind: reason}, infinities and NaN become strings."""
    if isinstance(value, Missing):
        return {value.kind: value.reason}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write(value: Any, write: Callable[[Any], str]) -> str:
    if value is None:
        return ""
    return value.kind if isinstance(value, Missing) else write(value)


def _is_failure(value: Any) -> bool:
    return isinstance(value, Missing) and value.kind == "failed"


def _abridged(labels: list[str], most: int = 6) -> str:
    rest = len(labels) - most
    return ", ".join(labels[:most]) + (f" and {rest} more" if rest > 0 else "")


def _widths(headings: list[str], cells: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(headings, *cells, strict=True)]


def _aligned(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column], gap: str = "  ") -> str:
    return gap.join(
        f"{cell:<{width}}" if column.left else f"{cell:>{width}}"
        for cell, width, column in zip(row, widths, columns, strict=True)
    )


def _group_line(columns: Sequence[Column], widths: list[int]) -> str:
    """The line with each group's name over its columns; widens a group's last column to fit the name."""
    if not any(column.group for column in columns):
        return ""
    parts = []
    for group, run in groupby(range(len(columns)), key=lambda i: columns[i].group):
        members = list(run)
        name = f" {group} " if group else ""
        room = sum(widths[i] for i in members) + 2 * (len(members) - 1)
        widths[members[-1]] += max(len(name) - room, 0)
        parts.append(name.center(max(room, len(name)), "-" if group else " "))
    return "  ".join(parts)
