"""The data-set card of a merged file, in the Hub's format: YAML settings, then Markdown."""

import json
from typing import Any

from filter_statistics import KEPT

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))

CARD = """---
pretty_name: {pretty_name}
license: other
license_name: see-licence-section
task_categories:
- text-generation
tags:
- self-align
- instruction-tuning
- synthetic
size_categories:
- {size}
{configs}---

# {title}

{records} instructions with replies, to fine-tune a base language model into an assistant called
{assistant}. The replies were written by a base language model that was shown a list of principles
and some worked conversations (SELF-ALIGN, [arXiv 2305.03047](https://arxiv.org/abs/2305.03047); the
Dromedary-2 recipe, [arXiv 2310.05910](https://arxiv.org/abs/2310.05910)), then filtered by rules.
No human and no other assistant wrote or rated them, apart from {dummy} hand-written conversations
about the assistant itself.

## Fields

| field | content |
|---|---|
| `example_id` | 1 to {records}, in the shuffled order of the file |
| `id` | the prompt's id |
| `instruction`, `input` | the user's prompt; `input` is mostly empty |
| `output` | the reply; further exchanges of a conversation follow after `### User` lines |
| `finished` | whether the reply really ended; false where a limit cut it |
| `source` | where the prompt comes from |

## Sources

| source | responses | kept | share |
|---|---:|---:|---:|
{sources}

## Filter

Of {judged} responses {kept} were kept ({kept_share:.1%}), and {finished:.1%} of these are finished.

| dropped because | responses |
|---|---:|
{reasons}

## Settings

```json
{settings}
```

## Licence

The prompts come under the licences of their sources, and the replies under the licence of the base
model that wrote them, where it makes demands on its outputs. Both hold for this data set. Check
them before you publish it or train on it, and put the outcome into the `license` line above.

## Limits

The replies were not checked for truth. They carry the knowledge, the errors and the leanings of the
base model.
"""

HUB_CONFIGS = """configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
"""


def dataset_card(report: dict[str, Any], title: str, *, with_configs: bool) -> str:
    """The card's text. `with_configs` names the parquet files, for a folder that the Hub shows."""
    responses, records = report["responses"], report["training_records"]
    judged = responses["judged"]
    return CARD.format(
        pretty_name=json.dumps(title),  # a JSON text is a YAML text
        size=next((name for limit, name in SIZES if records["total"] < limit), "n>1M"),
        configs=HUB_CONFIGS if with_configs else "",
        title=_flat(title),
        records=records["total"],
        assistant=_flat(report["settings"]["assistant_name"]),
        dummy=records["dummy"],
        sources="\n".join(_source_row(*item) for item in report["by_source"].items()),
        judged=judged,
        kept=responses["kept"],
        kept_share=responses["kept"] / judged if judged else 0,
        finished=responses["finished"] / responses["kept"] if responses["kept"] else 0,
        reasons="\n".join(
            f"| {rule['meaning']} (`{rule['rule']}`) | {rule['responses']} |"
            for rule in report["dropped"]
        ),
        settings=json.dumps(report["settings"], ensure_ascii=False, indent=2).replace("`", "'"),
    )


def _source_row(source: str, outcomes: dict[str, int]) -> str:
    total, kept = sum(outcomes.values()), outcomes.get(KEPT, 0)
    return f"| {_flat(source)} | {total} | {kept} | {kept / total:.0%} |"


def _flat(text: str) -> str:
    """A text that can't leave its line or its table cell, nor turn into HTML."""
    escapes = {"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "[": "\\["}
    return "".join(escapes.get(character, character) for character in text)
