"""training_report.html: loss, learning rate, gradient norm and tokens per second of a run, in one
file.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

CURVES = (
    ("loss", "loss (mean over learned tokens)"),
    ("learning_rate", "learning rate"),
    ("grad_norm", "gradient norm before clipping"),
    ("tokens_per_second", "tokens per second (padding not counted)"),
)


def write_training_report(
    path: Path, log_history: Sequence[Mapping[str, float]], summary: Mapping[str, object]
) -> None:
    """Writes the report from the Trainer's own log and a flat table of results."""
    picture = base64.b64encode(_draw_curves(log_history)).decode()
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_readable(value))}</td></tr>"
        for name, value in summary.items()
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Principle engraving</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;"
        "margin:2em auto;padding:0 1em}"
        "img{width:100%;height:auto}table{border-collapse:collapse}"
        "th,td{text-align:left;padding:.25em .8em;border-bottom:1px solid #ccc;font-weight:normal}"
        "th{color:#555}</style><h1>Principle engraving</h1>"
        f'<img alt="Curves of {", ".join(label for _, label in CURVES)}" '
        f'src="data:image/png;base64,{picture}"><h2>Run</h2><table>{rows}</table></html>\n'
    )
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


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


def _readable(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
