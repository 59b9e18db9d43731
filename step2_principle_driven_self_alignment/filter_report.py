"""The report of a merge, as JSON and as one self-contained HTML page."""

from pathlib import Path
from typing import Any

import jinja2
from filter_statistics import KEPT, LENGTH_BIN, FilterStatistics
from response_filters import RULES

TEMPLATE = Path(__file__).with_name("filter_report.html.jinja")
SHOWN_PRINCIPLES = 25
LONGEST_BIN = 60  # lengths from here on share the last bar of the page


def build_report(
    statistics: FilterStatistics,
    *,
    dummy: int,
    run: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything that the JSON report holds and the page shows.

    `run` tells where the responses come from, `settings` how they were merged.
    """
    judged, kept = statistics.judged, statistics.kept
    return {
        "training_records": {"total": kept + dummy, "responses": kept, "dummy": dummy},
        "responses": {
            "judged": judged,
            "kept": kept,
            "dropped": judged - kept,
            "finished": statistics.finished,
            "unfinished": kept - statistics.finished,
        },
        "dropped": [
            {
                "rule": rule.name,
                "meaning": rule.meaning,
                "responses": statistics.outcomes[rule.name],
            }
            for rule in RULES
        ],
        "by_source": _by_source(statistics),
        "finish_reasons": dict(statistics.finish_reasons.most_common()),
        "lengths": {
            "characters_per_bin": LENGTH_BIN,
            "raw_responses": dict(sorted(statistics.raw_lengths.items())),
            "kept_replies": dict(sorted(statistics.reply_lengths.items())),
            "mean_raw_response": _ratio(statistics.raw_characters, judged),
            "mean_kept_reply": _ratio(statistics.reply_characters, kept),
        },
        "principles": dict(
            sorted(statistics.principles.items(), key=lambda item: (-item[1], item[0]))
        ),
        "run": run,
        "settings": settings,
        "examples": {
            outcome: [shown for _, shown in statistics.examples.get(outcome, [])]
            for outcome in (KEPT, *(rule.name for rule in RULES))
            if outcome in statistics.examples
        },
    }


def _by_source(statistics: FilterStatistics) -> dict[str, dict[str, int]]:
    sources: dict[str, dict[str, int]] = {}
    for (source, outcome), count in sorted(statistics.by_source.items()):
        sources.setdefault(source, {})[outcome] = count
    return sources


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 1) if whole else 0.0


def render_page(report: dict[str, Any], title: str) -> str:
    """The report as an HTML page without scripts or links; all data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = "{:,}".format
    environment.filters["percent"] = _percent
    return environment.get_template(TEMPLATE.name).render(
        title=title,
        report=report,
        kept=KEPT,
        principles=list(report["principles"].items())[:SHOWN_PRINCIPLES],
        lengths=_length_bars(report["lengths"]),
        bin=LENGTH_BIN,
        meanings={rule.name: rule.meaning for rule in RULES},
    )


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "< 0.1 %"
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.1f} %"


def _length_bars(lengths: dict[str, Any]) -> list[dict[str, Any]]:
    """For each bin of the histogram its first length and the share of each kind in it."""
    kinds = ("raw_responses", "kept_replies")
    longest = max((bin for kind in kinds for bin in lengths[kind]), default=0)
    bars = [
        {"from": bin * LENGTH_BIN, **dict.fromkeys(kinds, 0)}
        for bin in range(min(longest, LONGEST_BIN) + 1)
    ]
    for kind in kinds:
        for bin, count in lengths[kind].items():
            bars[min(bin, LONGEST_BIN)][kind] += count
    return bars
