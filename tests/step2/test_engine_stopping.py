"""Where a response ends, however its turn markers are cut into tokens."""

import itertools

import pytest
from engine.stopping import ResponseText
from prompt_format import PromptFormat

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
    "text",
    [
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
