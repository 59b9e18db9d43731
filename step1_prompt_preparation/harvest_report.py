"""What a harvest found: proposals, kept and dropped, as a table, a JSON and an HTML page."""

import json
import os
from collections import Counter, defaultdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 5  # of each reason, in the report


class HarvestReport:
    """Counts by kind; every proposal ends as kept or dropped."""

    def __init__(self, kinds: list[str]) -> None:
        self.kinds = kinds
        self.proposed: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[tuple[str, str]] = Counter()  # (kind, reason)
        self.examples: dict[str, list[dict[str, str]]] = defaultdict(list)

    def propose(self, kind: str) -> None:
        """Counts an item that the model wrote."""
        self.proposed[kind] += 1

    def keep(self, kind: str) -> None:
        """Counts an item that stays."""
        self.kept[kind] += 1

    def drop(self, kind: str, reason: str, text: str, detail: str = "") -> None:
        """Counts an item that goes, and remembers the first few of each reason."""
        self.dropped[kind, reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            example = {"kind": kind, "text": text[:300], "detail": detail[:300]}
            self.examples[reason].append({k: v for k, v in example.items() if v})

    def counts(self) -> "pd.DataFrame":
        """A row a kind and one for all: proposed, a column for each reason, kept."""
        import pandas as pd

        kinds = [kind for kind in self.kinds if self.proposed[kind]]
        reasons = sorted({reason for _, reason in self.dropped})
        rows = {
            kind: [self.proposed[kind], *(self.dropped[kind, r] for r in reasons), self.kept[kind]]
            for kind in kinds
        }
        columns = ["proposed", *reasons, "kept"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=int)
        table.loc["all"] = table.sum().astype(int)
        return table

    def table(self) -> str:
        """The counts as aligned text."""
        return self.counts().to_string()

    def as_json(self, **totals: int) -> dict[str, Any]:
        """The report; the same run gives the same one, so it holds no times."""
        proposed = self.proposed.total()
        return {
            **totals,
            "proposed": proposed,
            "kept": self.kept.total(),
            "yield": round(self.kept.total() / proposed, 4) if proposed else 0.0,
            "by_kind": self.counts().to_dict(orient="index"),
            "examples": dict(sorted(self.examples.items())),
        }

    def write(self, output: Path, **totals: int) -> None:
        """Prints the table; writes OUTPUT.report.json and .report.html."""
        print(self.table())
        report = self.as_json(**totals)
        text = json.dumps(report, ensure_ascii=False, indent=1)
        write_beside(output.with_suffix(".report.json"), text + "\n")
        write_beside(output.with_suffix(".report.html"), self._page(output.stem, report))
        print(f"{report['kept']:,} of {report['proposed']:,} proposals are new, in {output}")

    def _page(self, title: str, report: dict[str, Any]) -> str:
        examples = "".join(
            f"<h3>{escape(reason)}</h3><ul>"
            + "".join(
                f"<li>{escape(e.get('text', ''))}"
                + (f"<br><small>{escape(e['detail'])}</small>" if "detail" in e else "")
                + "</li>"
                for e in found
            )
            + "</ul>"
            for reason, found in report["examples"].items()
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f"<title>{escape(title)}</title><h1>{escape(title)}</h1>"
            f"<p>{report['kept']:,} of {report['proposed']:,} proposals stay.</p>"
            f"{self.counts().to_html(border=0)}<h2>Dropped, with examples</h2>{examples}</html>\n"
        )


def write_beside(path: Path, text: str) -> None:
    """Writes beside and renames, so that nobody reads half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
