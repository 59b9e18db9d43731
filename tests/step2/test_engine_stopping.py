"""Where a response ends, however its turn markers are cut into tokens."""

import itertools
import random

import pytest
from engine.stopping import ResponseText
from prompt_format import PromptFormat
from response_text import split_turns

REPLY = " I think it over.\n\nWatson: The answer is 4.\n\nUser: Thanks!"


def feed(text, cuts=()):
    """Appends the pieces of a text; returns the response and after how many pieces it ended."""
    data = text.encode() if isinstance(text, str) else text
    response = ResponseText()
    bounds = [0, *cuts, len(data)]
    for count, (start, stop) in enumerate(itertools.pairwise(bounds), start=1):
        if response.append(data[start:stop]):
            return response, count
    return response, None


def test_the_users_turn_after_the_own_reply_is_the_end():
    response, ended = feed(REPLY)
    assert ended == 1
    assert response.text == " I think it over.\n\nWatson: The answer is 4.\n"


def test_every_way_to_cut_the_text_in_two_finds_the_same_end():
    end = REPLY.index("User:") + len("User:")
    for cut in range(1, len(REPLY)):
        response, ended = feed(REPLY, [cut])
        assert ended == (1 if cut >= end else 2), cut
        assert response.text == feed(REPLY)[0].text


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_markers_in_pieces_of_any_size_end_at_their_last_byte(size):
    data = REPLY.encode()
    end = REPLY.index("User:") + len("User:")
    response, ended = feed(REPLY, range(size, len(data), size))
    assert ended == -(-end // size)
    assert response.text.endswith("is 4.\n")


def test_bytes_of_a_character_may_arrive_one_by_one():
    text = " Bär, 骆驼 🐪.\n\nWatson: Größe 骆 🐪\n\nUser:"
    response, ended = feed(text, range(1, len(text.encode())))
    assert ended == len(text.encode())
    assert response.text == text.removesuffix("\nUser:")


@pytest.mark.parametrize(
    "turn", ["\nWatson:", "\nWatson (auto reply):", "\nWatson(to all, 你好):", "\nUser:"]
)
def test_a_further_turn_of_the_codename_is_an_end_too(turn):
    """A small model went on talking to itself up to the limit."""
    text = f" hm\n\nWatson: The answer\nis 4.\n{turn} Two"
    end = len(text.removesuffix(" Two").encode())
    for cut in range(1, len(text.encode())):
        response, ended = feed(text, [cut])
        assert ended == (1 if cut >= end else 2), cut
        assert response.text == " hm\n\nWatson: The answer\nis 4.\n"
    assert feed(text, range(1, len(text.encode())))[1] == end


def test_the_engine_stops_where_the_filter_cuts():
    rng = random.Random(3)
    pieces = [
        "\nWatson:",
        "\nWatson (",
        "so",
        "):",
        ")",
        "\nUser:",
        " User:",
        "\n",
        "é",
        "(",
        "Watson",
    ]
    ends = 0
    for _ in range(3000):
        text = " hm" + "".join(rng.choices(pieces, k=rng.randrange(12)))
        cuts = sorted(rng.sample(range(1, len(text.encode()) + 1), rng.randrange(1, 3)))
        response, ended = feed(text, cuts)
        turns = split_turns(text)
        assert (ended is not None) == turns.ended_by_turn, text
        stopped = split_turns(response.text)
        assert (stopped.thoughts, stopped.reply) == (turns.thoughts, turns.reply), text
        ends += turns.ended_by_turn
    assert 500 < ends < 2500


@pytest.mark.parametrize(
    "text",
    [
        "\n\nWatson: reply\nWatson says:",
        "\n\nWatson: reply\nWatson (so\n): hm",
        "\n\nWatson: reply\n Watson: indented",
        " thoughts\n\nUser: and so on",  # the reply is still to come
        " thoughts\n\nUser: hm\n\nWatson: reply",
        " thoughts Watson: in a line\n\nUser: hm",
        "\n\nWatson: Ask your User: he knows",  # in the middle of a line
        "\n\nWatson: reply\n\n User: indented",
        "\n\nWatson: reply\n\nuser: small",
        "\n\nWatson: reply\n\nUsers: many",
        "\n\nWatson: reply\n\nUser",  # not complete
        "\n\nWatson (auto reply): reply\n\nUser: hm",
        "User: at the very beginning\n",
    ],
)
def test_what_is_no_end(text):
    for cuts in ((), range(1, len(text))):
        response, ended = feed(text, cuts)
        assert ended is None
        assert response.text == text


def test_a_users_turn_before_the_reply_does_not_hide_the_one_after_it():
    response, ended = feed(" hm\n\nUser: too early\n\nWatson: reply\n\nUser: the end")
    assert ended == 1
    assert response.text == " hm\n\nUser: too early\n\nWatson: reply\n"


def test_an_empty_reply_can_end():
    response, ended = feed("\nWatson:\nUser:", range(1, 14))
    assert ended is not None
    assert response.text == "\nWatson:"


def test_an_incomplete_character_waits_in_the_text_so_far_and_shows_in_the_text():
    response = ResponseText()
    response.append("ä🐪".encode()[:4])
    assert response.text_so_far == "ä"
    assert response.text == "ä\ufffd"
    response.append("🐪".encode()[2:])
    assert response.text_so_far == response.text == "ä🐪"


def test_bytes_that_are_no_text_are_replaced():
    response = ResponseText()
    response.append(b"a\xffb")
    assert response.text == response.text_so_far == "a\ufffdb"


def test_other_markers_can_be_given():
    response = ResponseText(PromptFormat(reply_marker="\nBot:", end_marker="\nMan:"))
    assert not response.append(b"\nWatson: x\nUser: y\nBot: z")
    assert response.append(b"\nMan:")
    assert response.text == "\nWatson: x\nUser: y\nBot: z"
