"""The chat page in a real browser: type, see the reply stream, stop it, start over, two tabs."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import chat_page
import pytest
import torch
from base_tokenizer import load_tokenizer
from engraving_command import UserError

SCRIPT = "step3_principle_engraving/chat_page.py"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--temperature", "nan"), "--temperature must be 0 or more"),
        (("--top_p", "0"), "--top_p in (0, 1]"),
        (("--port", "70000"), "--port 1 to 65535"),
        (("--max_new_tokens", "0"), "--max_new_tokens must be 1 to"),
        (("--web", "1"), "unrecognized arguments: --web"),
    ],
)
def test_bad_flags_are_named(flags, message, run_main, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(chat_page, "--model_name_or_path", "x", *flags)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_without_gradio_it_says_what_to_install(run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-demo\.txt"):
        run_main(chat_page, "--model_name_or_path", "x")


def test_turns_of_a_history():
    history = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello. "},
        {"role": "user", "content": "Stopped at once"},
        {"role": "assistant", "content": ""},
    ]
    assert chat_page.turns_of(history) == ["Hi", "Hello."]


@pytest.fixture(scope="module")
def talkative_model(random_model, tmp_path_factory):
    """Random weights whose replies never end, and take some seconds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("talkative") / "model"
    shutil.copytree(random_model, folder)
    sizes = {"hidden_size": 256, "num_hidden_layers": 12, "max_position_embeddings": 4096}
    config = AutoConfig.from_pretrained(folder, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.lm_head.weight.data[config.eos_token_id] = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(repository, talkative_model):
    """A running page; a reply takes some seconds, and 2,096 tokens are left for the turns."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(repository / SCRIPT), "--model_name_or_path", talkative_model]
    command += ["--port", str(port), "--max_new_tokens", "2000", "--temperature", "0"]
    command += ["--device_map", "auto"]
    server = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, server.stderr.read()
            try:
                urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A browser tab with the page open."""

    def __init__(self, browser, address):
        self.page = browser.new_page()
        self.page.set_default_timeout(60_000)
        self.page.goto(address)
        self.box = self.page.get_by_role("textbox").first
        self.box.wait_for()

    def say(self, text):
        self.box.fill(text)
        self.box.press("Enter")

    def replies(self):
        return self._texts(".bot.message")

    def said(self):
        return self._texts(".user.message")

    def _texts(self, kind):
        return [element.inner_text().strip() for element in self.page.query_selector_all(kind)]

    def wait_for_more_than(self, characters):
        """A reply of more characters than that; gradio's own "processing" is shorter than 60."""
        end = time.monotonic() + 60
        while not self.replies() or len(self.replies()[-1]) <= characters:
            assert time.monotonic() < end, f"no reply longer than {characters}: {self.replies()}"
            time.sleep(0.05)
        return self.replies()[-1]

    def press(self, name):
        # At once: the button is gone when the reply ends.
        self.page.get_by_role("button", name=name, exact=True).first.dispatch_event("click")

    def stop(self):
        """Stops the reply and returns what it has come to, which grows no more."""
        self.press("Stop")
        self.page.locator(".submit-button").wait_for()
        self.wait_for_more_than(60)
        stopped = self.replies()[-1]
        time.sleep(1)
        assert self.replies()[-1] == stopped
        return stopped


def message_of(tokens, model):
    """A message of about that many tokens."""
    words = "rain " * 100
    return "rain " * (100 * tokens // len(load_tokenizer(str(model)).encode(words)))


@pytest.mark.slow
def test_a_reply_streams_in_and_stops_and_the_page_starts_over(browser, address):
    tab = Tab(browser, address)
    tab.page.get_by_text("Why is the sky blue?").wait_for()  # an example
    tab.say("What is rain?")
    first = tab.wait_for_more_than(60)
    later = tab.wait_for_more_than(len(first) + 20)
    assert len(later) > len(first)
    stopped = tab.stop()
    tab.say("And snow?")
    tab.wait_for_more_than(60)
    tab.stop()
    assert tab.said() == ["What is rain?", "And snow?"]
    assert tab.replies()[0] == stopped
    tab.press("Clear")
    tab.page.get_by_text("Why is the sky blue?").wait_for()
    assert tab.said() == tab.replies() == []
    tab.page.close()


@pytest.mark.slow
def test_two_tabs_do_not_mix(browser, address):
    tabs = [Tab(browser, address) for _ in range(2)]
    for tab, message in zip(tabs, ("What is rain?", "What is silk?"), strict=True):
        tab.say(message)
        tab.wait_for_more_than(60)
        tab.stop()
    for tab, message in zip(tabs, ("What is rain?", "What is silk?"), strict=True):
        assert tab.said() == [message]
        assert len(tab.replies()) == 1
        tab.page.close()


@pytest.mark.slow
def test_a_message_that_is_too_long_is_said_on_the_page(browser, address, talkative_model):
    tab = Tab(browser, address)
    tab.say(message_of(2200, talkative_model))
    tab.page.get_by_text("the message and the system prompt are").first.wait_for()
    tab.page.locator(".submit-button").wait_for()
    tab.say("What is rain?")
    tab.wait_for_more_than(60)
    tab.page.close()


@pytest.mark.slow
def test_turns_beyond_the_context_are_left_out_with_a_note(browser, address, talkative_model):
    tab = Tab(browser, address)
    for _ in range(2):
        tab.say(message_of(1200, talkative_model))
        tab.wait_for_more_than(60)
        tab.stop()
    tab.page.get_by_text("it no longer sees the oldest turns").first.wait_for()
    tab.page.close()
