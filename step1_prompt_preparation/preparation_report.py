"""What happened to the rows: counted by source and reason, shown as a table, written as JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent


class PreparationReport:
    """Counts of read, dropped and kept rows; every row that is read ends in one of the two."""

    def __init__(self, length_unit: str, settings: dict[str, Any]) -> None:
        self.length_unit = length_unit
        self.settings = settings
        self.read: Counter[str] = Counter()
        self.dropped: Counter[tuple[str, str]] = Counter()  # (source, reason)
        self.cleaned: Counter[str] = Counter()  # cleaning rule -> texts that it changed
        self.kept: Counter[str] = Counter()
        self.lengths: list[int] = []

    def count_kept(self, sources: Iterable[str], lengths: Iterable[int]) -> None:
        """Adds the kept rows, once everything is decided."""
        self.kept.update(sources)
        self.lengths.extend(lengths)

    def as_json(self) -> dict[str, Any]:
        """The report; the same run gives the same report, so it holds no times."""
        reasons = sorted({reason for _, reason in self.dropped})
        return {
            "settings": self.settings,
            "read": _by_source(self.read),
            "dropped": {
                "total": self.dropped.total(),
                "by_reason": {
                    reason: _by_source(
                        {
                            s: n
                            for (s, dropped_for), n in self.dropped.items()
                            if dropped_for == reason
                        }
                    )
                    for reason in reasons
                },
            },
            "cleaned_by_rule": dict(sorted(self.cleaned.items())),
            "kept": _by_source(self.kept),
            f"length_quantiles_{self.length_unit}": length_quantiles(self.lengths),
        }

    def table(self) -> str:
        """The counts as aligned text: one column a source and one for all of them."""
        sources = sorted(self.read)
        counts = {"read": self.read, "kept": self.kept}
        reasons: Counter[str] = Counter()
        for (_, reason), number in self.dropped.items():
            reasons[reason] += number
        rows = [("", *sources, "all"), _row("read", [counts["read"][s] for s in sources])]
        for reason, _ in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            rows.append(_row(f"- {reason}", [self.dropped[s, reason] for s in sources]))
        rows.append(_row("kept", [counts["kept"][s] for s in sources]))
        lines = _aligned(rows)
        if self.lengths:
            quantiles = length_quantiles(self.lengths).items()
            shown = "  ".join(f"{name} {length}" for name, length in quantiles)
            lines.append(f"length of the kept in {self.length_unit}: {shown}")
        if self.cleaned:
            shown = ", ".join(f"{rule} {number:,}" for rule, number in self.cleaned.most_common())
            lines.append(f"cleaned: {shown}")
        return "\n".join(lines)


def length_quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Lengths at `QUANTILES`, each the length of a real row (nearest rank)."""
    ordered = sorted(lengths)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {f"{percent}%": ordered[round(last * percent / 100)] for percent in QUANTILES}


def _by_source(counts: dict[str, int]) -> dict[str, Any]:
    return {"total": sum(counts.values()), "by_source": dict(sorted(counts.items()))}


def _row(name: str, numbers: list[int]) -> tuple[str, ...]:
    return (name, *(f"{number:,}" for number in numbers), f"{sum(numbers):,}")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
