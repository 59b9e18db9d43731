"""The table of filter rules: what each catches, and the nearest that it lets through."""

from dataclasses import replace

import pytest
from filter_settings import FilterSettings, load_blacklist, load_required_opening
from response_filters import RULES, ResponseFilter
from user_error import UserError

REPLY = (
    "Rivers carry sand to the sea, where waves sort the grains by weight and wind blows the "
    "light ones inland, until tough grasses hold them fast in long and slowly wandering dunes."
)
CHINESE = (
    "沙丘由风吹动沙粒而形成，草木把它们固定下来。河流把沙子带到海边，海浪按重量分选沙粒，"
    "风再把轻的吹向内陆，年复一年，沙丘慢慢移动。"
)
ZERO_ROW = "[0, 0, 0, 0, 0, 0, 0, 0],\n"


@pytest.fixture(scope="module")
def settings(repository) -> FilterSettings:
    prompts = repository / "prompts"
    return FilterSettings(
        required_opening=load_required_opening(prompts / "required_opening.txt"),
        blacklist=load_blacklist(prompts / "exemplar_blacklist.txt"),
    )


@pytest.fixture(scope="module")
def judge(settings):
    """Judges a good response after the given changes to its fields."""
    response_filter = ResponseFilter(settings)

    def judge(output="{opening}\n\nWatson: {reply}", **fields):
        fields = {"instruction": "How do dunes form?", "input": "", **fields}
        output = output.replace("{opening}", settings.required_opening).replace("{reply}", REPLY)
        return response_filter.judge({"finish_reason": "stop", **fields, "output": output})

    return judge


def reply_turn(reply: str) -> str:
    return "{opening} Principle 2 (informative) applies.\n\nWatson: " + reply


def test_a_good_response_is_kept(judge):
    verdict = judge(
        " {opening} Principle 2 (informative) applies.\n\nWatson: {reply}\n\nUser: Good"
    )
    assert verdict.kept
    assert verdict.reply == REPLY
    assert verdict.finished


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_catches_its_example(judge, rule):
    assert judge(**rule.example).reason == rule.name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_lets_the_nearest_text_through(judge, rule):
    assert judge(**rule.counterexample).kept


@pytest.mark.parametrize(
    ("reply", "instruction", "reason"),
    [
        ("{reply} Watson (internal thoughts), so", "Hi", "leaked_thoughts"),
        ("{reply} (Internal Thoughts)", "Hi", "leaked_thoughts"),
        ("{reply} {opening}", "Hi", "leaked_thoughts"),
        ("{reply} By principle 7 (candor) I say so.", "Hi", "leaked_thoughts"),
        ("{reply} By principle 7 (candor) I say so.", "State principle 7.", None),
        ("{reply} By principle, 7 (lucky) I say so.", "Hi", None),
        ("{reply} Subject: (auto reply)", "A subject like (AUTO REPLY)?", None),
        ("{reply} Look at the lichens!", "Hi", "exemplar_phrase"),
        ("{reply} Look at the lichens!", "What is a lichen?", None),
        ("{reply} leafy\nrosettes", "Hi", "exemplar_phrase"),
        ("{reply} Lisbonne", "Hi", None),
        ("{reply} 去Lisbon吧", "Hi", "exemplar_phrase"),
        ("{reply} Tell me  about\nthe sea", "Tell me about the sea", "prompt_echo"),
        ("{reply} Tell me about the seas", "Tell me about the sea", "prompt_echo"),
        ("{reply} Tell me, about the sea", "Tell me about the sea", None),
    ],
)
def test_leaks_echoes_and_copied_examples(judge, reply, instruction, reason):
    assert judge(reply_turn(reply), instruction=instruction).reason == reason


def test_an_echoed_input_is_caught_too(judge):
    verdict = judge(reply_turn("{reply} dunes of the Sahara"), input="dunes of the Sahara")
    assert (verdict.reason, verdict.evidence) == ("prompt_echo", "dunes of the Sahara")


@pytest.mark.parametrize(("part", "reason"), [("a" * 16, None), ("a" * 17, "prompt_echo")])
def test_an_echo_has_more_than_16_characters(judge, part, reason):
    assert judge(reply_turn(f"{{reply}} {part}"), instruction=part).reason == reason
    assert judge(reply_turn(f"{{reply}} {part}"), input=part).reason == reason


@pytest.mark.parametrize(
    ("length", "text", "finish_reason", "reason"),
    [
        (20, "a" * 19, "stop", "too_short"),
        (20, "a" * 20, "stop", None),
        (160, "a" * 160, "stop", None),
        # Before a loop, 160 characters stay the least
        (20, "One fine start. " + "very " * 120, "length", "loop"),
        (300, REPLY + " " + "very " * 120, "length", "loop"),
    ],
)
def test_the_least_length_is_that_of_the_flag(settings, length, text, finish_reason, reason):
    rules = ResponseFilter(replace(settings, min_length=length))
    output = f"{settings.required_opening}\n\nWatson: {text}"
    record = {"instruction": "Hi", "output": output, "finish_reason": finish_reason}
    assert rules.judge(record).reason == reason


def test_repetition_exactly_at_its_share_is_let_through(settings):
    """Fifteen words twice: 25 n-grams of six words, 15 of them distinct."""
    words = "Rivers carry sand to the sea where waves sort its grains by weight every day "
    record = {"instruction": "Hi", "finish_reason": "stop"}
    record["output"] = f"{settings.required_opening}\n\nWatson: {words * 2}"
    for share, reason in ((0.4, None), (0.39, "repetition")):
        rules = ResponseFilter(replace(settings, min_length=0, max_repeated_share=share))
        assert rules.judge(record).reason == reason


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ("\n\n1. Dig a hole\n2.", "\n\n1. Dig a hole"),
        ("\n\n- Dig a hole\n-", "\n\n- Dig a hole"),
        ("\n\n```\ndig()\n```", "\n\n```\ndig()\n```"),
        ("\n\n```\ndig()\nfil", "\n\n```\ndig()"),
        ("\n\n```\ndig()\n```\nIt di", "\n\n```\ndig()\n```"),
        (" It di", ""),
    ],
)
def test_a_reply_cut_by_a_limit_ends_with_its_last_whole_part(judge, end, kept):
    verdict = judge(reply_turn("{reply}" + end), finish_reason="length")
    assert verdict.reply == REPLY + kept


def test_a_leak_after_the_reply_does_not_count(judge):
    ended = "{reply}\n\nUser: Good job! Clear context\n\nWatson (auto reply): Thanks! Lisbon."
    assert judge(reply_turn(ended)).kept


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (CHINESE[:53], "too_short"),  # counts as 159
        (CHINESE[:54], None),
        ("a" * 159, "too_short"),
        ("The sea. " * 17 + "The sand.", "repetition"),
    ],
)
def test_length_is_kinder_to_chinese(judge, reply, reason):
    assert judge(reply_turn(reply), instruction="沙丘 or dunes?").reason == reason


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param("```python\nboard = [\n" + ZERO_ROW * 8 + "]\n```\n{reply}", id="board"),
        pytest.param(
            "\n".join(f'ax{i}.plot(days, rain[{i}], color="C{i}")' for i in range(30)), id="code"
        ),
        pytest.param(
            "\n".join(f"{i}. Day {i}: walk for {i + 10} minutes" for i in range(1, 30)), id="list"
        ),
        pytest.param("\n".join(f"| {name} | 12 | 7 | yes |" for name in REPLY.split()), id="table"),
        pytest.param(
            f"{REPLY}\n\nRow, row, row your boat, gently down the stream.\n\n" * 2, id="refrain"
        ),
        pytest.param(
            "\n".join(f'{{"id": {i}, "name": "n{i}", "size": {i * i}}},' for i in range(40)),
            id="json",
        ),
    ],
)
def test_code_and_lists_with_similar_lines_survive(judge, reply):
    verdict = judge(reply_turn(reply))
    assert verdict.kept, verdict
    assert verdict.finished


@pytest.mark.parametrize(
    "loop",
    [
        "And so it goes on and on, and there is no end. " * 12,
        "very " * 120,
        "沙丘很美。" * 40,
        "1. Dig.\n2. Dig.\n3. Dig.\n" + "4. Dig.\n" * 90,
        "ha" * 600,
        "😂" * 100,
        "| --- " * 100,
        "0, " * 100,
    ],
)
def test_a_reply_that_starts_well_and_loops_is_cut_before_the_loop(judge, loop):
    verdict = judge(reply_turn("{reply}\n\n" + loop))
    assert verdict.kept, verdict
    assert not verdict.finished
    assert verdict.reply.startswith(REPLY)
    assert len(verdict.reply) < len(REPLY) + 70


@pytest.mark.parametrize(
    ("instruction", "reply", "reason"),
    [
        ("沙丘是怎么形成的？", "{reply}", "wrong_language"),
        ("Как образуются дюны?", "{reply}", "wrong_language"),
        (
            "How do dunes form?",
            "Дюны образуются там, где ветер несёт песок. {ru}",
            "wrong_language",
        ),
        ("Say it in Russian: how do dunes form?", "Дюны растут, где ветер несёт песок. {ru}", None),
        ("用Python写一个排序", "```python\n{reply}\n```\n这个函数把列表排好序。", None),
        ("写一个排序函数", "{reply}", None),
        ("把下面的话读一遍: the dunes of the west are moving east", "{reply}", None),
        ("砂丘はどうやってできますか", "{reply}", "wrong_language"),
        ("砂丘はどうやってできますか", CHINESE, "wrong_language"),
    ],
)
def test_the_language_follows_the_prompt(judge, instruction, reply, reason):
    russian = (
        "Трава удерживает его, и так растут холмы; море приносит новый песок, а реки — ил. " * 2
    )
    reply = reply.replace("{ru}", russian)
    assert judge(reply_turn(reply), instruction=instruction).reason == reason


@pytest.mark.parametrize(
    ("finish_reason", "ending", "finished"),
    [
        ("stop", "", True),
        ("eos", "", True),
        ("length", "", False),
        ("length", "\n\nUser: Thanks", True),
        (None, "\n\nUser: Thanks", True),
        (None, "", False),
    ],
)
def test_finished_is_true_only_where_the_reply_really_ended(judge, finish_reason, ending, finished):
    verdict = judge(reply_turn("{reply} And the next one" + ending), finish_reason=finish_reason)
    assert verdict.finished == finished
    assert verdict.reply == (REPLY + " And the next one" if finished else REPLY)


def test_an_abandoned_response_is_dropped_for_what_stopped_it(judge):
    verdict = judge("{opening}\n(auto reply)", finish_reason="abandoned")
    assert verdict.reason == "leaked_thoughts"


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "has 0 lines"), ("One.\nTwo.", "has 2 lines")],
)
def test_the_required_opening_is_one_line(tmp_path, content, message):
    path = tmp_path / "opening.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_required_opening(path)


def test_a_blacklist_row_without_phrase_is_named(tmp_path):
    path = tmp_path / "blacklist.txt"
    path.write_text("# comment\n\nred\tcolours\n\tcolours\n")
    with pytest.raises(UserError, match=r"blacklist\.txt, line 4"):
        load_blacklist(path)
