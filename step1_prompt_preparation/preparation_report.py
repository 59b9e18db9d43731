"""What happened to the rows, by source and reason: as a table, as JSON and as an HTML page."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

TEMPLATE = Path(__file__).with_suffix(".html.jinja")
EXAMPLES = 3  # shown of each reason and rule
CLUSTERS = 20  # of near-duplicates, the largest
SHOWN_CHARACTERS = 500
LENGTH_BINS = 32
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
        self.clusters: list[dict[str, Any]] = []
        self._dropped_examples = Examples()
        self._cleaned_examples = Examples()

    def show_dropped(self, source: str, reason: str, text: str, details: dict[str, Any]) -> None:
        """Offers a dropped row as an example."""
        shown = {"source": source, "text": text[:SHOWN_CHARACTERS], "details": details}
        self._dropped_examples.offer(reason, text, shown)

    def show_cleaned(self, rules: Iterable[str], before: str, after: str) -> None:
        """Offers a cleaned text as an example of each rule that changed it."""
        pairs = enumerate(zip(before, after, strict=False))
        same = next((n for n, (old, new) in pairs if old != new), min(len(before), len(after)))
        start = max(0, same - SHOWN_CHARACTERS // 3)
        place = slice(start, start + SHOWN_CHARACTERS)
        shown = {"before": before[place], "after": after[place]}
        for rule in rules:
            self._cleaned_examples.offer(rule, before, shown)

    def show_clusters(self, clusters: dict[str, list[str]]) -> None:
        """Keeps the largest clusters: a kept text and the texts that it stands for."""
        largest = sorted(clusters.items(), key=lambda item: (-len(item[1]), item[0]))[:CLUSTERS]
        self.clusters = [
            {
                "kept": kept[:SHOWN_CHARACTERS],
                "dropped": len(texts),
                "examples": [text[:SHOWN_CHARACTERS] for text in sorted(texts)[:EXAMPLES]],
            }
            for kept, texts in largest
        ]

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
            "near_duplicate_clusters": self.clusters,
            "examples": {
                "dropped": self._dropped_examples.chosen(),
                "cleaned": self._cleaned_examples.chosen(),
            },
        }

    def page(self, title: str) -> str:
        """The report as an HTML page without scripts or links; all data is escaped."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATE.parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["grouped"] = "{:,}".format
        environment.filters["percent"] = _percent
        report = self.as_json()
        report["settings"] = {"tokenizer": None, "max_prompt_len": None, **self.settings}
        reasons = report["dropped"]["by_reason"]
        return environment.get_template(TEMPLATE.name).render(
            title=title,
            report=report,
            reasons=sorted(reasons, key=lambda reason: (-reasons[reason]["total"], reason)),
            quantiles=self._length_quantiles(),
            lengths=self._length_bars(),
            unit=self.length_unit,
        )

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

    def _length_bars(self) -> list[dict[str, int]]:
        """The histogram of the lengths, of bins that are equally wide."""
        width = max(self.lengths) // LENGTH_BINS + 1
        counts = Counter(length // width for length in self.lengths)
        return [
            {"from": width * number, "to": width * (number + 1) - 1, "prompts": counts[number]}
            for number in range(max(counts) + 1)
        ]


class Examples:
    """A few examples of each kind: those whose texts have the smallest checksums.

    So they are the same in whatever order the rows come.
    """

    def __init__(self) -> None:
        self._chosen: dict[str, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)

    def offer(self, kind: str, text: str, example: dict[str, Any]) -> None:
        """Takes the example in if it belongs among the few."""
        checksum = zlib.crc32(text.encode("utf-8", "surrogatepass"))
        chosen = self._chosen[kind]
        if len(chosen) < EXAMPLES or checksum < chosen[-1][0]:
            chosen.append((checksum, str(example), example))
            chosen.sort(key=lambda entry: entry[:2])
            del chosen[EXAMPLES:]

    def chosen(self) -> dict[str, list[dict[str, Any]]]:
        """The examples by kind."""
        return {kind: [e for _, _, e in self._chosen[kind]] for kind in sorted(self._chosen)}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole if whole else 0:.1f} %"


def _by_source(counts: dict[str, int]) -> dict[str, Any]:
    return {"total": sum(counts.values()), "by_source": dict(sorted(counts.items()))}
