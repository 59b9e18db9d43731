"""The comparison for people: a table of text, and a page with the replies side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas
from compared_models import READABLE
from reply_figures import SHARES, Asked, Replies, speaks_of_itself

TEMPLATE = Path(__file__).with_name("comparison.html.jinja")
LABELS = {
    "ends": "ends by itself",
    "further_turns": "further turns",
    "names_topic": "names its topic",
    "speaks_of_itself": "speaks of itself unasked",
    "identity_right": "identity right",
    "median_characters": "median length, characters",
    "held_out_loss": "held-out loss, nats a token",
}
CONTROLS = {
    "names_topic": "another prompt's topic",
    "speaks_of_itself": "when asked who it is",
    "identity_right": "the same words, unasked",
}


def as_table(comparison: Mapping[str, Any]) -> str:
    """A line for each figure and, in brackets, for each control; a column for each model."""
    text = _table(comparison["rows"]).to_string()
    if comparison["sampled"]:
        text += "\n\nsampled\n" + _table(comparison["sampled"]).to_string()
    return text


def _table(rows: Mapping[str, Mapping]) -> pandas.DataFrame:
    table = {}
    for row, figures in rows.items():
        column = table[READABLE.get(row, row)] = {}
        for name, label in LABELS.items():
            if name != "held_out_loss" or any(other[name] is not None for other in rows.values()):
                column[label] = cell(figures, name)
            if name in CONTROLS:
                column[f"  ({CONTROLS[name]})"] = readable(name, figures["controls"][name])
    return pandas.DataFrame(table)


def cell(figures: Mapping[str, Any], name: str) -> str:
    """A figure with its interval."""
    value = figures[name]
    if value is None:
        return "-"
    low, high = (readable(name, bound).removesuffix(" %") for bound in figures["intervals"][name])
    return f"{readable(name, value)} [{low}, {high}]"


def readable(name: str, value: float | None) -> str:
    """A share as percent, a length as a whole number, a loss with three digits."""
    if value is None:
        return "-"
    if name in SHARES:
        return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"
    return f"{value:.0f}" if name == "median_characters" else f"{value:.3f}"


def write_page(
    path: Path,
    comparison: Mapping[str, Any],
    asked: Mapping[str, Sequence[Asked]],
    replies: Mapping[str, Mapping[str, Replies]],
) -> None:
    """The page, written beside and renamed. `asked` and the parts of Replies have the same names;
    all texts are escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE.name).render(
        comparison=comparison,
        labels=LABELS,
        controls=CONTROLS,
        shares=SHARES,
        names={row: READABLE.get(row, row) for row in comparison["rows"]},
        cell=cell,
        readable=readable,
        prompts={kind: _side_by_side(kind, asked[kind], replies) for kind in asked},
    )
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _side_by_side(
    kind: str, asked: Sequence[Asked], replies: Mapping[str, Mapping[str, Replies]]
) -> list[dict[str, Any]]:
    """Every prompt with the replies of all rows: for each row a dict by mode."""
    return [
        {
            "asked": prompt,
            "replies": {
                row: {
                    mode: _shown(kind, prompt, getattr(found, kind)[index])
                    for mode, found in modes.items()
                    if getattr(found, kind)
                }
                for row, modes in replies.items()
            },
        }
        for index, prompt in enumerate(asked)
    ]


def _shown(kind: str, prompt: Asked, reply: Any) -> dict[str, Any]:
    marks = [("good", "ends")] if reply.ended else []
    if reply.further_turn:
        marks.append(("bad", "further turn"))
    elif not reply.ended:
        marks.append(("bad", "does not end"))
    met = prompt.is_met_by(reply)
    what = "topic" if kind == "unseen" else "identity"
    marks.append(("good", what) if met else ("bad", f"no {what}"))
    if kind == "unseen" and speaks_of_itself(reply):
        marks.append(("bad", "of itself"))
    return {"text": reply.text, "marks": marks}
