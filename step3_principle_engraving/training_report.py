"""training_report.html: what a run did to the model, in one file without scripts or links."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).with_name("training_report.html.jinja")
CURVES = (
    ("loss", "loss (mean over learned tokens)"),
    ("learning_rate", "learning rate"),
    ("grad_norm", "gradient norm before clipping"),
    ("tokens_per_second", "tokens per second (padding not counted)"),
)
MEASURES = {
    "loss": ("loss (mean over learned tokens)", "{:.3f}"),
    "replies_that_end": ("replies that end by themselves", "{:.0%}"),
    "replies": ("prompts answered", "{:,.0f}"),
}


def write_training_report(
    path: Path, title: str, log_history: Sequence[Mapping[str, float]], summary: Mapping
) -> None:
    """Writes the report from the Trainer's own log and training_summary.json's content."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "grouped": "{:,}".format,
        "readable": lambda value: "–" if value is None else f"{value:.3g}",
        "duration": _duration,
    }
    page = environment.get_template(TEMPLATE.name).render(
        title=title,
        summary=summary,
        measures=_before_and_after(summary),
        curves=[label for _, label in CURVES],
        picture=base64.b64encode(_draw_curves(log_history)).decode(),
    )
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _before_and_after(summary: Mapping) -> list[tuple[str, str, str]]:
    rows = []
    for name, (label, form) in MEASURES.items():
        cells = [summary[f"held_out_{moment}"].get(name) for moment in ("before", "after")]
        if any(cell is not None for cell in cells):
            rows.append((label, *("–" if cell is None else form.format(cell) for cell in cells)))
    return rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _draw_curves(log_history: Sequence[Mapping[str, float]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    for (name, label), axes in zip(CURVES, figure.subplots(2, 2).flat, strict=True):
        points = [(line["step"], line[name]) for line in log_history if name in line]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps, values, color="#2563a8", linewidth=1.5, marker="." if len(steps) < 40 else ""
            )
        if name == "loss":
            _draw_held_out_loss(axes, log_history)
        axes.set_title(label, fontsize=11, loc="left")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if name in ("loss", "tokens_per_second", "grad_norm"):
            axes.set_ylim(bottom=0)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _draw_held_out_loss(axes: object, log_history: Sequence[Mapping[str, float]]) -> None:
    held_out = [(line["step"], line["eval_loss"]) for line in log_history if "eval_loss" in line]
    if held_out:
        axes.plot(
            *zip(*held_out, strict=True), "o-", color="#c2571a", markersize=4, label="held out"
        )
        axes.legend()
