"""The comparison of base and engraved model: figures that tell a good model from a bad one."""

import json
import math
import shutil
import subprocess

import compare_engraving
import numpy
import pytest
import torch
from base_tokenizer import load_tokenizer
from confidence_intervals import bootstrap_interval
from engraved_model import load_base_model
from engraving_command import UserError
from engraving_data import DialogueTokenizer
from reply_figures import (
    Asked,
    Replies,
    holds_word,
    measure_loss,
    measure_replies,
    speaks_of_itself,
)
from reply_generation import NucleusDraw, Reply, Sampling, generate_replies

SCRIPT = "step3_principle_engraving/compare_engraving.py"
FIGURES = {
    *("ends", "further_turns", "names_topic", "speaks_of_itself", "identity_right"),
    *("median_characters", "held_out_loss"),
}


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("Rain falls.", "rain", True),
        ("It rains.", "rain", True),
        ("a fox's den, two foxes", "fox", True),
        ("The train left.", "rain", False),
        ("A rainbow.", "rain", False),
        ("I like GREEN TEA!", "green tea", True),
        ("c++ is fine", "C++", True),
    ],
)
def test_a_topic_is_named_as_a_whole_word(text, word, found):
    assert holds_word(text, word) is found


@pytest.mark.parametrize(
    ("text", "of_itself"),
    [
        ("I am Dromedary.", True),
        ("As an AI, I can't.", True),
        ("I'm a helpful assistant.", True),
        ("I am an AI language model", True),
        ("The Self-Align team made me.", True),
        ("A camel has humps; I am sure of that.", False),
        ("Your assistant may help you.", False),
        ("An AIM is a goal.", False),
    ],
)
def test_speaking_of_itself(text, of_itself):
    assert speaks_of_itself(Reply(text, True, False)) is of_itself


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Fine.\n\n### User\nAnd?", "Fine."),
        ("Fine.\n### Dromedary\nFine.", "Fine."),
        ("Fine.\nUser: And?", "Fine."),
        ("Fine.\n Watson (internal thoughts): so", "Fine."),
        ("Fine.\nDromedary: 2", "Fine."),
        ("User: And?", ""),
    ],
)
def test_a_further_turn_is_cut_off_and_is_no_end(text, said):
    assert Reply.of_text(text, at_end=True) == Reply(said, ended=False, further_turn=True)


@pytest.mark.parametrize("text", ["The User: field is first.", "### Users\nFine.", "Fine."])
def test_what_is_no_further_turn(text):
    assert Reply.of_text(f"{text} ", at_end=True) == Reply(text, ended=True, further_turn=False)
    assert Reply.of_text(text, at_end=False) == Reply(text, ended=False, further_turn=False)


def test_figures_and_their_controls():
    """Every measure comes out well and badly at least once."""
    unseen = [Asked(f"About {word}?", "", (word,)) for word in ("rain", "silk", "chess", "lava")]
    identity = [Asked("Who?", "", ("Dromedary",)), Asked("Name?", "", ("Dromedary",))]
    texts = ["Rain and silk.", "Rain.", "I am Dromedary and play chess.", "It is hot."]
    ends = [True, False, True, True]
    said = [Reply(text, end, not end) for text, end in zip(texts, ends, strict=True)]
    told = [Reply("I am Dromedary.", True, False), Reply("Guess.", True, False)]
    figures = measure_replies(unseen, identity, Replies(said, told), seed=1)
    assert figures["ends"] == 0.75
    assert figures["further_turns"] == 0.25
    assert figures["names_topic"] == 0.5
    assert figures["speaks_of_itself"] == 0.25
    assert figures["identity_right"] == 0.5
    assert figures["median_characters"] == 12.0
    assert figures["controls"] == {
        "names_topic": pytest.approx(2 / 12),  # silk in the first, rain in the second reply
        "identity_right": 0.25,
        "speaks_of_itself": 0.5,
    }
    assert figures["intervals"]["ends"] == pytest.approx((0.3006, 0.9544), abs=1e-4)
    unasked = measure_replies(unseen, identity, Replies(said, []), seed=1)
    assert unasked["identity_right"] is None
    assert unasked["controls"]["speaks_of_itself"] is None


def test_the_loss_weighs_tokens_and_is_drawn_over_texts():
    log_likelihoods, tokens = [-10.0, -2.0, -30.0], [10, 1, 20]
    loss, (low, high) = measure_loss(log_likelihoods, tokens, seed=3)
    assert loss == pytest.approx(42 / 31)
    assert 1.0 <= low < loss < high <= 2.0
    assert (low, high) == measure_loss(log_likelihoods, tokens, seed=3)[1]


def test_the_interval_of_a_median():
    values = [1.0] * 10 + [5.0] * 60 + [9.0] * 30
    assert bootstrap_interval(values, 1, statistic=numpy.median) == (5.0, 5.0)


def test_a_drawn_token_has_the_nucleus_own_probabilities():
    """Chi-square against the exact distribution; the token beyond the nucleus never comes."""
    probabilities = torch.tensor([0.05, 0.5, 0.15, 0.3])
    sampling = Sampling(temperature=2.0, top_p=0.9, seed=0)
    rows = 4000
    numbers = torch.rand(rows, 1, generator=torch.Generator().manual_seed(0))
    draw = NucleusDraw(sampling, numbers, prompt_length=3)
    logits = (2.0 * probabilities.log()).expand(rows, 4)
    scores = draw(torch.zeros(rows, 3, dtype=torch.long), logits)
    assert (scores > -torch.inf).sum(-1).tolist() == [1] * rows
    counts = scores.argmax(-1).bincount(minlength=4)
    expected = rows * torch.tensor([0.0, 0.5, 0.15, 0.3]) / 0.95
    assert counts[0] == 0
    assert ((counts - expected)[1:] ** 2 / expected[1:]).sum() < 13.8  # 0.1 % of 2 degrees


@pytest.mark.parametrize("sampling", [None, Sampling(1.0, 0.9, seed=5)])
def test_a_reply_depends_on_its_prompt_and_not_on_the_batch(random_model, sampling):
    model = load_base_model(str(random_model)).eval()
    tokenizer = load_tokenizer(str(random_model))
    encoder = DialogueTokenizer(tokenizer)
    prompts = [encoder.encode_start("What is rain? " * (1 + n % 3) + str(n)) for n in range(7)]

    def replies(order, batch_size):
        found = generate_replies(
            model,
            tokenizer,
            [prompts[index] for index in order],
            sampling=sampling,
            max_new_tokens=12,
            batch_size=batch_size,
            label="test",
        )
        return dict(zip(order, found, strict=True))

    forwards = replies(range(7), 3)
    assert forwards == replies([6, 2, 4, 0, 1, 5, 3], 7)
    assert len({reply.text for reply in forwards.values()}) > 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two unseen prompts, two identity questions, one held-out record, and responses of a run."""
    folder = tmp_path_factory.mktemp("comparison")
    unseen = [
        {"id": "1", "instruction": "Who brings rain?", "input": "", "topic": ["rain", "water"]},
        {"id": "2", "instruction": "Who plays chess?", "input": "Shortly.", "topic": ["chess"]},
    ]
    identity = [
        {"instruction": text, "names": ["Dromedary"]}
        for text in ("Who are they?", "And who are you?")
    ]
    outputs = [
        (" Principle 1.\n\nWatson: Rain is <b>water</b>.", "stop"),
        (" It is:\n\nWatson: Some do.\n\nWatson: Others don't.", "length"),
        (" No reply", "abandoned"),
        (" So:\n\nWatson: I am Watson.", "eos"),
    ]
    responses = [
        {**row, "output": output, "finish_reason": reason}
        for row, (output, reason) in zip([*unseen, *identity], outputs, strict=True)
    ]
    held_out = {"instruction": "Who are you?", "output": "I am Dromedary.", "finished": True}
    training = [{"instruction": "Who is it?", "output": "It is I.", "finished": True}]
    contents = {
        "unseen.jsonl": unseen,
        "identity.jsonl": identity,
        "answers_1shards_0.jsonl": responses[:3],
        "answers_1shards_0.1.jsonl": responses[3:],
        "held_out.jsonl": [held_out],
        "training.jsonl": training,
    }
    for name, rows in contents.items():
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with (folder / "answers_1shards_0.1.jsonl").open("a") as file:
        file.write('{"instruction": "torn')
    (folder / "neutral.txt").write_text("# Conversation\n\nA user and an assistant.\n")
    (folder / "principles.txt").write_text("Watson is honest.\n" * 8 + "\nUser:\n")
    return folder


@pytest.fixture(scope="module")
def flags(files, random_model, talking_model):
    return {
        "--base_model": random_model,
        "--engraved_model": talking_model,
        "--prompts_file": files / "unseen.jsonl",
        "--identity_file": files / "identity.jsonl",
        "--neutral_system": files / "neutral.txt",
        "--principle_responses": files / "answers_1shards_*.jsonl",
        "--principle_prompt_file": files / "principles.txt",
        "--held_out_file": files / "held_out.jsonl",
        "--training_file": files / "training.jsonl",
        "--output_file": files / "comparison.json",
        "--max_new_tokens": 40,
    }


def command_line(flags):
    return [part for flag in flags.items() for part in flag]


@pytest.fixture(scope="module")
def comparison(run_main, flags, talking_model):
    """The whole command once, with one row more."""
    more = {**flags, "--more_models": f"verbose={talking_model}"}
    assert run_main(compare_engraving, *command_line(more)) == 0
    return json.loads(flags["--output_file"].read_text())


def test_all_rows_have_all_figures(comparison):
    rows = comparison["rows"]
    assert list(rows) == ["base", "base_with_principles", "engraved", "verbose"]
    assert list(comparison["sampled"]) == ["base", "engraved", "verbose"]
    for row in rows.values():
        assert set(row) >= FIGURES
        assert set(row["intervals"]) == FIGURES
        for name in FIGURES:
            low, high = row["intervals"][name]
            assert low - 1e-9 <= row[name] <= high + 1e-9
    assert rows["verbose"] == rows["engraved"]


def test_the_engraved_model_ends_and_the_base_does_not(comparison):
    base, engraved = (comparison["rows"][row] for row in ("base", "engraved"))
    assert (base["ends"], engraved["ends"], engraved["further_turns"]) == (0, 1, 0)
    assert (base["identity_right"], engraved["identity_right"]) == (0, 1)
    assert engraved["held_out_loss"] < 0.1 < 2 < base["held_out_loss"]
    # It knows one reply by heart and gives it to everything: the measures must say so.
    assert (engraved["speaks_of_itself"], engraved["names_topic"]) == (1, 0)
    assert engraved["controls"]["identity_right"] == 1
    assert engraved["median_characters"] == len("I am Dromedary.")


def test_the_base_with_principles_is_read_from_response_shards(comparison):
    row = comparison["rows"]["base_with_principles"]
    assert (row["ends"], row["further_turns"], row["names_topic"]) == (0.5, 0.5, 0.5)
    assert row["identity_right"] == 0  # it says Watson
    assert row["controls"]["speaks_of_itself"] == 0.5
    assert row["held_out_loss"] != comparison["rows"]["base"]["held_out_loss"]


def test_the_same_command_gives_the_same_file(comparison, run_main, flags, files, capsys):
    again = {**flags, "--output_file": files / "again.json", "--batch_size": 1}
    assert run_main(compare_engraving, *command_line(again)) == 0
    repeated = json.loads((files / "again.json").read_text())
    for table in ("rows", "sampled"):
        for row, figures in repeated[table].items():
            assert figures["held_out_loss"] == pytest.approx(
                comparison[table][row]["held_out_loss"], abs=1e-5
            )
            for name in FIGURES - {"held_out_loss"}:
                assert figures[name] == comparison[table][row][name], (row, name)
    table = capsys.readouterr().out
    assert table.splitlines()[0].split("  ")[-1].strip() == "engraved"
    assert "base + principles" in table
    assert "(another prompt's topic)" in table


def test_the_page_shows_replies_side_by_side_with_markup_as_text(comparison, files):
    page = (files / "comparison.html").read_text()
    assert "Rain is &lt;b&gt;water&lt;/b&gt;." in page
    assert "I am Dromedary." in page
    assert "<script" not in page


@pytest.mark.slow
def test_a_browser_shows_the_page(comparison, files, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    shot = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,2600"]
    shown = subprocess.run(
        [*command, f"--screenshot={shot}", "--dump-dom", (files / "comparison.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "<b>water</b>" not in shown
    assert "base + principles" in shown
    assert shot.stat().st_size > 50_000


def test_base_and_adapter_without_principles_in_four_bits(run_main, engrave, flags, files):
    """The adapter of a 4-bit base; its base is quantised for both rows."""
    engrave(files / "run", "--bits", 4)
    given = {**flags, "--adapter_dir": files / "run", "--output_file": files / "adapter.json"}
    for flag in ("--engraved_model", "--principle_responses", "--principle_prompt_file"):
        del given[flag]
    given |= {"--temperature": 0, "--device_map": "auto"}
    assert run_main(compare_engraving, *command_line(given)) == 0
    content = json.loads((files / "adapter.json").read_text())
    assert list(content["rows"]) == ["base", "engraved"]
    assert content["sampled"] == {}
    for row in content["rows"].values():
        assert math.isfinite(row["held_out_loss"])


SEEN = '[{"instruction": "who  PLAYS chess?", "input": "Shortly.", "output": "All."}]'
BAD_INPUTS = {
    "no topic": ("--prompts_file", "a.jsonl", '{"instruction": "?"}', "row 1: 'instruction' must"),
    "topic a text": (
        *("--prompts_file", "a.jsonl"),
        '{"instruction": "?", "topic": "rain"}',
        "'topic' a list of words",
    ),
    "empty topic": (
        *("--prompts_file", "a.jsonl"),
        '{"instruction": "?", "topic": [" "]}',
        "a word of 'topic' is empty",
    ),
    "no names": ("--identity_file", "a.jsonl", '{"instruction": "?"}', "row 1: 'instruction' must"),
    "a text": ("--identity_file", "a.json", '["?"]', "row 1: 'instruction' must be a text"),
    "no prompts": ("--prompts_file", "a.json", "[]", "holds no prompts"),
    "missing": ("--prompts_file", "none.jsonl", None, "no file '"),
    "seen": ("--training_file", "a.json", SEEN, "prompt 2: 'Who plays chess?' is row 1 of"),
    "seen held out": (
        *("--held_out_file", "a.json"),
        '[{"instruction": "Who is it?", "output": "I.", "finished": true}]',
        "a.json, prompt 1: 'Who is it?' is row 1 of",
    ),
    "no replies": (
        *("--held_out_file", "a.json"),
        '[{"instruction": "?", "output": " ", "finished": true}]',
        "a.json holds no replies",
    ),
    "no shard": ("--principle_responses", "none*.jsonl", None, "no response shard matches"),
    "unanswered": (
        *("--principle_responses", "a.jsonl"),
        '{"instruction": "Who are they?", "output": "I."}\n{"torn',
        "3 of 4 prompts have no response",
    ),
    "no response": ("--principle_responses", "a.jsonl", '{"a": 1}', "row 1: not a response record"),
    "damaged": ("--principle_responses", "a.jsonl", "{\n\n", "a.jsonl, row 1: not valid JSON"),
    "no principle prompt": (
        *("--principle_prompt_file", "a.txt"),
        "Be good.",
        "must end with the line 'User:'",
    ),
    "empty system": ("--neutral_system", "a.txt", " \n", "a.txt is empty"),
    "too long": (
        *("--prompts_file", "a.jsonl"),
        json.dumps({"instruction": "camel " * 2000, "topic": ["camel"]}),
        "the base model's context leaves 984 beside --max_new_tokens 40",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs_are_named(case, run_main, flags, tmp_path):
    flag, name, content, message = BAD_INPUTS[case]
    if content is not None:
        (tmp_path / name).write_text(content)
    output = tmp_path / "comparison.json"
    output.write_text("earlier")
    given = {**flags, flag: tmp_path / name, "--output_file": output}
    if case == "too long":
        del given["--principle_responses"]
    with pytest.raises(UserError) as error:
        run_main(compare_engraving, *command_line(given))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert output.read_text() == "earlier"


BAD_FLAGS = {
    ("--temperature", "nan"): "--temperature must be 0 or more",
    ("--temperature", "inf"): "--temperature must be 0 or more",
    ("--top_p", "0"): "--top_p in (0, 1]",
    ("--top_p", "nan"): "--top_p in (0, 1]",
    ("--max_new_tokens", "0"): "--max_new_tokens, --batch_size and --limit must be 1 or more",
    ("--limit", "0"): "must be 1 or more",
    ("--seed", "-1"): "--seed 0 or more",
    ("--more_models", "base=x"): "is not NAME=FOLDER",
    ("--more_models", "x"): "is not NAME=FOLDER",
    ("--adapter_dir", "x"): "one of --engraved_model and --adapter_dir",
    ("--output_file", "none/a.json"): "--output_file must end with .json and lie in a folder",
    ("--output_file", "a.html"): "--output_file must end with .json",
    ("--sampled", "1"): "unrecognized arguments: --sampled 1",
}


@pytest.mark.parametrize("more", BAD_FLAGS, ids=" ".join)
def test_bad_flags_are_named(more, run_main, capsys):
    given = ("--base_model", "x", "--engraved_model", "y", "--output_file", "a.json")
    with pytest.raises(SystemExit) as end:
        run_main(compare_engraving, *given, *more)
    assert end.value.code == 2
    assert BAD_FLAGS[more] in capsys.readouterr().err


@pytest.fixture(scope="module")
def untrained_model(tiny_base_model, tmp_path_factory):
    """The tiny base model's own architecture and tokenizer with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "model"
    shutil.copytree(tiny_base_model, folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_untrained_model_comes_out_badly(run_script, tiny_base_model, untrained_model, tmp_path):
    """The project's own prompts, through the tiny base model and one that never learned."""
    done = run_script(
        SCRIPT,
        *("--base_model", tiny_base_model, "--engraved_model", untrained_model),
        *("--output_file", tmp_path / "comparison.json", "--max_new_tokens", 48, "--limit", 60),
        *("--temperature", 0),
    )
    assert done.returncode == 0, done.stderr
    assert "not checked that training saw none of these prompts" in done.stderr
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    for row in ("base", "engraved"):
        assert rows[row]["identity_right"] < 0.1
        assert rows[row]["speaks_of_itself"] < 0.1
    assert rows["engraved"]["names_topic"] == 0
    assert rows["engraved"]["ends"] < 0.1
    assert rows["engraved"]["replies"] == {"unseen": 60, "identity": 40}
