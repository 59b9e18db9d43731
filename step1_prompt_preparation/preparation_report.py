"""What happened to the rows: counted by source and reason, shown as a table, written as JSON."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

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

    def empty_sources(self) -> list[str]:
        """A sentence for each source that gave not one prompt, with the reasons."""
        sentences = []
        for source in sorted(source for source in self.read if not self.kept[source]):
            reasons = {r: n for (dropped, r), n in self.dropped.items() if dropped == source}
            most = sorted(reasons, key=lambda reason: (-reasons[reason], reason))[:3]
            why = ", ".join(f"{reason} {reasons[reason]:,}" for reason in most)
            sentences.append(f"{source} gave no prompt; its {self.read[source]:,} rows: {why}")
        return sentences

    def as_json(self) -> dict[str, Any]:
        """The report; the same run gives the same report, so it holds no times."""
        drops = self._drops()
        by_reason = {
            reason: row[row > 0].to_dict() for reason, row in drops.sort_index().iterrows()
        }
        return {
            "settings": self.settings,
            "read": _by_source(self.read),
            "dropped": {
                "total": self.dropped.total(),
                "by_reason": {reason: _by_source(counts) for reason, counts in by_reason.items()},
            },
            "cleaned_by_rule": dict(sorted(self.cleaned.items())),
            "kept": _by_source(self.kept),
            f"length_quantiles_{self.length_unit}": self._length_quantiles(),
        }

    def table(self) -> str:
        """The counts as aligned text: one column a source and one for all of them."""
        import pandas

        drops = self._drops()
        order = sorted(drops.index, key=lambda reason: (-drops.loc[reason].sum(), reason))
        table = pandas.concat(
            [
                pandas.DataFrame(self.read, index=["read"]),
                drops.loc[order].rename(index="- {}".format),
                pandas.DataFrame(self.kept, index=["kept"]),
            ]
        ).fillna(0)
        table = table.reindex(columns=sorted(self.read)).fillna(0).astype(int)
        table["all"] = table.sum(axis=1)
        lines = [line.rstrip() for line in table.map("{:,}".format).to_string().splitlines()]
        if self.lengths:
            shown = "  ".join(f"{n} {length}" for n, length in self._length_quantiles().items())
            lines.append(f"length of the kept in {self.length_unit}: {shown}")
        if self.cleaned:
            shown = ", ".join(f"{rule} {number:,}" for rule, number in self.cleaned.most_common())
            lines.append(f"cleaned: {shown}")
        return "\n".join(lines)

    def _drops(self) -> "pandas.DataFrame":
        """Dropped rows: a row for each reason, a column for each source."""
        import pandas

        frame = pandas.DataFrame(
            [(source, reason, number) for (source, reason), number in self.dropped.items()],
            columns=["source", "reason", "rows"],
        )
        return frame.pivot_table(
            index="reason", columns="source", values="rows", aggfunc="sum", fill_value=0
        )

    def _length_quantiles(self) -> dict[str, int]:
        """Lengths at `QUANTILES`, each the length of a real row."""
        import pandas

        if not self.lengths:
            return {}
        shares = [percent / 100 for percent in QUANTILES]
        lengths = pandas.Series(self.lengths).quantile(shares, interpolation="nearest")
        return {f"{percent}%": int(n) for percent, n in zip(QUANTILES, lengths, strict=True)}


def _by_source(counts: dict[str, int]) -> dict[str, Any]:
    return {"total": sum(counts.values()), "by_source": dict(sorted(counts.items()))}
