"""Giving up by the merge's own rules: fewer tokens, and the same responses kept.

The model recites. As each of its tokens decides the next, no piece of one response may occur in
another: the opening is cut at another place for each.
"""

import pytest
from engine.engine import Engine, EngineSettings, Request, SamplingSettings
from response_filters import FilterSettings, ResponseFilter
from step2.tiny_models import make_reciting_model

OPENING = "Before I answer, I consider which of my principles apply here."
FACTS = ("camels", "rivers", "bread", "winds", "glass", "maps", "salt", "bees", "clocks", "tea")


def facts(number):
    return [f" Fact {number}{'abcdefghij'[i]}: {fact} matter." for i, fact in enumerate(FACTS)]


def response(number, opening=OPENING, cue="\n\nWatson:", first=""):
    """Pieces of a response that nothing but its arguments spoils."""
    cut = 5 + number
    pieces = [f" {opening[:cut]}", f"{opening[cut:]} Case {number}.", f"{cue} So{number}: {first}"]
    return [*pieces, *facts(number), f"\n\nUser: {number}"]


RECITALS = {
    "[kept]": response(0),
    "[kept too]": response(1),
    "[other opening]": response(2, opening="Sure, I can tell you all that there is to say."),
    "[user first]": response(3, cue="\n\nUser: hm\n\nWatson:"),
    "[leak]": response(4, first="(auto reply)"),
    "[no reply]": response(5, cue="\n\nWatson says")[:-1],
    "[short]": [*response(6)[:4], "\n\nUser: 6"],
    "[cut]": [*response(7)[:-1], " and so on"],
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_reciting_model(tmp_path_factory.mktemp("reciting"), RECITALS)
    sampling = SamplingSettings(temperature=0, max_new_tokens=30)
    settings = {"slots": 2, "max_own_tokens": 64, "dtype": "float32", "device": "cpu"}
    return Engine(EngineSettings(folder, "# Rules\n\nUser:", sampling=sampling, **settings))


def judge(rules, completions):
    """Verdicts of the filter by prompt, of responses as the generator would write them."""
    return {
        c.request.id: rules.judge(
            {"instruction": "Tell me.", "output": c.text, "finish_reason": c.finish_reason}
        )
        for c in completions
    }


def test_the_same_is_kept_with_fewer_tokens(engine):
    rules = ResponseFilter(FilterSettings(OPENING))
    requests = [Request(name, f" Tell me. {name}") for name in RECITALS]

    def give_up(request, text):
        return rules.cannot_be_kept("Tell me.", "", text) is not None

    whole = {c.request.id: c for c in engine.generate(requests)}
    early = {c.request.id: c for c in engine.generate(requests, give_up=give_up)}
    abandoned = {name for name, c in early.items() if c.finish_reason == "abandoned"}
    assert abandoned == {"[other opening]", "[user first]", "[leak]"}
    for name in RECITALS:
        if name in abandoned:
            assert early[name].output_tokens < whole[name].output_tokens
        else:
            assert early[name] == whole[name]
    kept, kept_early = (judge(rules, some.values()) for some in (whole, early))
    assert kept_early.keys() == kept.keys()
    for name, verdict in kept.items():
        assert kept_early[name].reason == verdict.reason, name
        if verdict.kept:
            assert kept_early[name] == verdict
    assert {name for name, verdict in kept.items() if verdict.kept} == {
        "[kept]",
        "[kept too]",
        "[cut]",
    }
