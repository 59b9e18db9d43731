"""What a merge tells about itself: the report, as JSON and as an HTML page, and a data-set card."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_model_check import check_base_model
from filter_statistics import KEPT, LENGTH_BIN, FilterStatistics
from response_filters import RULES

if TYPE_CHECKING:  # takes a while to import, which --help and refused flags do without
    import jinja2

PAGE, CARD = "filter_report.html.jinja", "dataset_card.md.jinja"
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
SHOWN_PRINCIPLES = 25
MOST_IDENTITY = 0.25  # of the training records
LONGEST_BIN = 60  # lengths from here on share the last bar of the page


def build_report(
    statistics: FilterStatistics,
    principles: dict[int, str],
    *,
    dummy: int,
    dummy_left_out: int,
    run: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything that the JSON report holds and the page shows.

    `principles`: those of the prompt; `run` tells where the responses come from, `settings` how
    they were merged.
    """
    judged, kept = statistics.judged, statistics.kept
    return {
        "training_records": {
            "total": kept + dummy,
            "responses": kept,
            "dummy": dummy,
            "dummy_left_out": dummy_left_out,
            "identity_share": round(dummy / max(kept + dummy, 1), 4),
        },
        "warnings": _warnings(kept, dummy),
        "base_model": check_base_model(statistics.measured, principles),
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
        "principles": _by_frequency(statistics.principles),
        "principles_checked": bool(principles),
        "misnamed_principles": _by_frequency(statistics.misnamed),
        "misnamed_share": round(
            statistics.misnamed.total()
            / max(statistics.misnamed.total() + statistics.principles.total(), 1),
            4,
        ),
        "run": run,
        "settings": settings,
        "examples": {
            outcome: [shown for _, shown in statistics.examples.get(outcome, [])]
            for outcome in (KEPT, *(rule.name for rule in RULES))
            if outcome in statistics.examples
        },
    }


def _warnings(kept: int, dummy: int) -> list[str]:
    share = dummy / max(kept + dummy, 1)
    if share <= MOST_IDENTITY:
        return []
    return [
        f"{share:.0%} of the training records are hand-written identity conversations; from "
        f"{MOST_IDENTITY:.0%} on a model speaks of itself unasked. Generate more responses, or cap "
        f"their share, as with --identity_share 0.2"
    ]


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _by_source(statistics: FilterStatistics) -> dict[str, dict[str, int]]:
    sources: dict[str, dict[str, int]] = {}
    for (source, outcome), count in sorted(statistics.by_source.items()):
        sources.setdefault(source, {})[outcome] = count
    return sources


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 1) if whole else 0.0


def render_page(report: dict[str, Any], title: str) -> str:
    """The report as an HTML page without scripts or links; all data is escaped."""
    return _template(PAGE, autoescape=True).render(
        title=title,
        report=report,
        kept=KEPT,
        principles=list(report["principles"].items())[:SHOWN_PRINCIPLES],
        lengths=_length_bars(report["lengths"]),
        bin=LENGTH_BIN,
        meanings={rule.name: rule.meaning for rule in RULES},
    )


def render_card(report: dict[str, Any], title: str, *, with_configs: bool) -> str:
    """The data-set card, in the Hub's format: YAML settings, then Markdown.

    `with_configs` names the parquet files, for a folder that the Hub shows.
    """
    total = report["training_records"]["total"]
    settings = json.dumps(report["settings"], ensure_ascii=False, indent=2)
    return _template(CARD, autoescape=False).render(
        title=title,
        report=report,
        records=report["training_records"],
        responses=report["responses"],
        size=next((name for limit, name in SIZES if total < limit), "n>1M"),
        settings=settings.replace("`", "'"),
        with_configs=with_configs,
    )


def _template(name: str, *, autoescape: bool) -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(grouped="{:,}".format, percent=_percent, flat=_flat, json=json.dumps)
    return environment.get_template(name)


def _flat(text: str) -> str:
    """A text that can't leave its line or table cell in Markdown, nor turn into HTML."""
    escapes = {"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "[": "\\["}
    return "".join(escapes.get(character, character) for character in text)


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
