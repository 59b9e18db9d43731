"""The generator's own view of how far it is."""

import generation_report
import pytest
from base_model_check import EarlyCheck
from engine.generation import EngineStatistics
from generation_report import GenerationReport
from prompt_format import SELF_ALIGN
from shard_writer import ShardWriter, read_status


class Clock:
    """Stands in for the seconds that pass."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def report(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(generation_report.time, "monotonic", clock.monotonic)
    statistics = EngineStatistics()
    with ShardWriter(tmp_path / "run", 1, 0) as writer:
        made = GenerationReport(
            *(None, SELF_ALIGN, writer, {"old": "stop"}, 101),
            statistics=statistics,
            slots=8,
            samples=0,
            check=EarlyCheck([], {}),
        )
        with made.running(bar=False):
            yield made, statistics, clock, writer


def add(report, tokens):
    report.add({"id": "x", "finish_reason": "stop", "output_tokens": tokens})


def test_tokens_under_way_count_in_the_rate_and_the_time_left(report):
    """Counting finished responses only, the first of eight told eight times the time."""
    report, statistics, clock, _ = report
    assert report.seconds_left is None
    clock.now, statistics.output_tokens = 10.0, 8 * 100  # eight side by side, almost equally long
    add(report, 100)
    assert report.tokens_per_second == 80
    assert 110 < report.seconds_left < 125  # 92 whole ones are left: 9200 tokens
    statistics.output_tokens = 8 * 100 * 12
    clock.now = 120.0
    for _ in range(95):
        add(report, 100)
    assert report.seconds_left < 10


def test_the_status_tells_the_share_and_the_launch(report):
    report, statistics, clock, writer = report
    clock.now, statistics.output_tokens = 2.0, 300
    add(report, 100)
    writer.show(report.status)
    status = read_status(writer.path)
    assert (status["prompts_assigned"], status["prompts_answered"]) == (101, 2)
    assert status["finish_reasons"]["stop"] == 2 and status["finished"] is False
    launch = status["latest_launch"]
    assert (launch["answered_before"], launch["prompts_answered"]) == (1, 1)
    assert launch["tokens_per_second"] == 150
