"""One response's path through the rules, in words."""

from typing import Any

from response_filters import RULES, FilterSettings, ResponseFilter
from response_shards import ResponseReader
from run_shards import RunShards


def explain(response_id: str, run: RunShards, settings: FilterSettings) -> str:
    """What each rule says of the response; ValueError if no shard has it."""
    for shard in run.paths:
        for record in ResponseReader([shard]).read():
            if record["id"] == response_id:
                return "\n".join([f"{shard}", *_describe(record, settings)])
    raise ValueError(
        f"none of the {len(run.paths)} shards has a response with the id {response_id}"
    )


def _describe(record: dict[str, Any], settings: FilterSettings) -> list[str]:
    response_filter = ResponseFilter(settings)
    verdict = response_filter.judge(record)
    lines = [
        f"id {record['id']}, source {record.get('source') or 'unknown'}, "
        f"finish reason {record.get('finish_reason') or 'not recorded'}",
        *_quoted("prompt", "\n\n".join(filter(None, (record["instruction"], record["input"])))),
        *_quoted("response", record["output"]),
    ]
    if not settings.published_rules:
        lines += _rule_lines(record, response_filter)
    lines.append("")
    if verdict.kept:
        lines += [f"kept, {'finished' if verdict.finished else 'unfinished'}"]
        lines += _quoted("reply, before the codename is replaced", verdict.reply)
    else:
        lines.append(f"dropped: {verdict.reason}")
    return lines


def _rule_lines(record: dict[str, Any], response_filter: ResponseFilter) -> list[str]:
    response = response_filter.respond(record)
    found = [(rule, rule.evidence(response)) for rule in RULES]
    return ["", "rules, in order:"] + [
        f"  {number:2} {rule.name:16} {'passes' if evidence is None else f'catches: {evidence}'}"
        for number, (rule, evidence) in enumerate(found, start=1)
    ]


def _quoted(title: str, text: str) -> list[str]:
    return ["", f"{title}:", *(f"  | {line}" for line in text.split("\n"))]
