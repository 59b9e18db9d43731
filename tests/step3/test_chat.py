"""chat.py in a real terminal: one-shot, several turns, the end marker, Ctrl-C and Ctrl-D."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import chat
import pytest
from engraving_command import UserError


class Terminal:
    """A program in a pseudo-terminal of its own, where Ctrl-C is the terminal's signal."""

    def __init__(self, *command):
        self.descriptor, slave = pty.openpty()
        self.program = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.seen = ""

    def read_until(self, text, seconds=120):
        """Everything up to `text`; what follows stays for the next call."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.descriptor], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} within {seconds} s in {self.seen[-500:]!r}"
            self.seen += os.read(self.descriptor, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def interrupt_until(self, text):
        """Presses Ctrl-C until `text` is seen: one may fall between the prompt and the reading."""
        for _ in range(20):
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                return self.read_until(text, seconds=5)
        raise AssertionError(f"no {text!r} after Ctrl-C in {self.seen[-500:]!r}")


def take_terminal():
    """In the child: its terminal's Ctrl-C reaches it, even where the tests run in background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def terminal(repository):
    """Starts chat.py with the given flags; what still runs at the end of the test is ended."""
    started = []

    def start(*flags):
        script = repository / "step3_principle_engraving" / "chat.py"
        started.append(Terminal(script, *flags))
        return started[-1]

    yield start
    for one in started:
        one.program.kill()
        one.program.wait()
        os.close(one.descriptor)


@pytest.mark.slow
def test_several_turns_then_ctrl_d(terminal, talking_model):
    window = terminal("--model_name_or_path", talking_model)
    window.read_until("You: ")
    window.type("Who are you?\n")
    window.read_until("Dromedary: ")
    assert window.read_until("You: ").strip() == "I am Dromedary."
    window.type("/new\n")
    window.read_until("You: ")
    window.type("Who are you?\n")
    window.read_until("Dromedary: ")
    assert window.read_until("You: ").strip() == "I am Dromedary."
    window.type("\x04")
    assert window.program.wait(30) == 0


@pytest.mark.slow
def test_ctrl_c_stops_a_reply_and_not_the_program(terminal, random_model):
    """Random weights talk without an end."""
    window = terminal("--model_name_or_path", random_model, "--max_new_tokens", 100_000)
    window.read_until("You: ")
    window.interrupt_until("(Ctrl-D ends)")
    window.read_until("You: ")
    for _ in range(2):
        window.type("Tell me about rain.\n")
        window.read_until("Dromedary: ")
        assert select.select([window.descriptor], [], [], 60)[0]
        window.type("\x03")
        window.read_until("You: ", seconds=60)
        assert window.program.poll() is None
    window.type("\x04")
    assert window.program.wait(30) == 0


def test_one_shot_prints_the_reply_alone(run_main, talking_model, capsys):
    flags = ("--model_name_or_path", talking_model, "--prompt", "Who are you?")
    assert run_main(chat, *flags) == 0
    assert capsys.readouterr().out == "I am Dromedary.\n"
    assert run_main(chat, *flags, "--max_new_tokens", 2) == 0
    assert capsys.readouterr().out == "I am\n"


def test_base_and_adapter_without_any_export(run_main, talking_run, random_model, capsys):
    flags = ("--model_name_or_path", random_model, "--adapter_dir", talking_run)
    run_main(chat, *flags, "--prompt", "Who are you?", "--system", "verbose")
    assert capsys.readouterr().out == "I am Dromedary.\n"


def test_later_turns_continue_the_training_format(run_main, talking_model, monkeypatch):
    """Token by token what the chat template renders for the whole conversation."""
    from base_tokenizer import load_tokenizer

    conversations = []
    inputs = iter(["Who are you?", "Who are you?"])

    def answer(prompt):
        for text in inputs:
            return text
        raise EOFError

    start = chat.Conversation.__init__
    monkeypatch.setattr(
        chat.Conversation,
        "__init__",
        lambda self, *args: (conversations.append(self), start(self, *args))[1],
    )
    monkeypatch.setattr("builtins.input", answer)
    assert run_main(chat, "--model_name_or_path", talking_model) == 0
    tokenizer = load_tokenizer(str(talking_model))
    said = conversations[0].turns[:3]
    assert said == ["Who are you?", "I am Dromedary.", "Who are you?"]
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert conversations[0].token_ids(said) == rendered


def test_a_full_context_forgets_the_oldest_turns(run_main, talking_model, monkeypatch, capsys):
    """It went on beyond the model's positions."""
    inputs = iter(["Who are you?", "rain " * 150, "rain " * 150, "rain " * 900, "Who are you?"])

    def answer(prompt):
        for text in inputs:
            return text
        raise EOFError

    monkeypatch.setattr("builtins.input", answer)
    assert run_main(chat, "--model_name_or_path", talking_model, "--max_new_tokens", 700) == 0
    said = capsys.readouterr()
    assert "the oldest turns are forgotten" in said.err
    assert "there is room for 512 in the model's context of 1024" in said.out
    assert "\nDromedary: I am Dromedary" in said.out


@pytest.mark.slow
def test_bytes_that_are_no_text_end_nothing(repository, talking_model):
    """They ended in a traceback."""
    script = repository / "step3_principle_engraving" / "chat.py"
    command = [sys.executable, str(script), "--model_name_or_path", str(talking_model)]
    typed = b"\xff\xfe\nWho are you?\n"
    result = subprocess.run(command, input=typed, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert b"I am Dromedary." in result.stdout
    once = [*map(os.fsencode, command), b"--prompt", b"Who are you?\xff", b"--max_new_tokens", b"4"]
    assert subprocess.run(once, capture_output=True, timeout=300).returncode == 0


def test_sampling_follows_the_seed(run_main, random_model, capsys):
    flags = ("--model_name_or_path", random_model, "--prompt", "rain", "--max_new_tokens", 12)
    texts = []
    for seed in (1, 1, 2):
        run_main(chat, *flags, "--temperature", 1.0, "--seed", seed)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Yes.", "Yes."),
        ("Yes.\n\n### Us", "Yes."),
        ("Yes.\n\n### User\n", "Yes."),
        ("Yes.\n\n### Other", "Yes.\n\n### Other"),
        ("caf\ufffd", "caf"),
    ],
)
def test_nothing_of_the_marker_is_ever_shown(text, shown):
    assert text[: chat.safe_length(text)] == shown


def test_wrong_flags_and_system_prompts(run_main, talking_model, capsys):
    for flags in (("--temperature", -1), ("--top_p", 0), ("--maxnewtokens", 3)):
        with pytest.raises(SystemExit) as end:
            run_main(chat, "--model_name_or_path", talking_model, *flags)
        assert end.value.code == 2
    with pytest.raises(UserError, match="no system prompt 'rude': --system takes a file or"):
        run_main(chat, "--model_name_or_path", talking_model, "--system", "rude")
