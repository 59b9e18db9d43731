"""What the tests of step 1 share: a tokenizer, small files, a stage run as its script runs it."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from command_line import run_script as run_as_script


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, the table on stdout, the messages on stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_stage(monkeypatch, capsys) -> Callable[..., Ended]:
    """Runs a stage's module with arguments, as `python MODULE.py ARGUMENTS…` does."""

    def run(stage: ModuleType, *arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [stage.__name__, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            run_as_script(stage.main)
        except SystemExit as end:
            code = end.code
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tokenizer(repository, tmp_path_factory) -> Path:
    """A SentencePiece model of LLaMA's kind: byte-pair merges, byte fallback, leading space."""
    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        input=str(repository / "prompts" / "watson_self_align_prompt.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture
def write_openorca(tmp_path) -> Callable[..., Path]:
    """Writes (id, question) pairs as an OpenOrca parquet file."""

    def write(rows: list[tuple], name: str = "openorca.parquet") -> Path:
        ids, questions = zip(*rows, strict=True) if rows else ((), ())
        columns = {
            "id": pa.array(ids, pa.string()),
            "system_prompt": pa.array([""] * len(rows), pa.string()),
            "question": pa.array(questions, pa.string()),
            "response": pa.array(["Yes."] * len(rows), pa.string()),
        }
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=50)
        return path

    return write


@pytest.fixture
def write_json(tmp_path) -> Callable[..., Path]:
    """Writes rows as a .json array or .jsonl file, by the name's ending."""

    def write(rows: list, name: str = "rows.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


def conversation(*texts: str, name: str | None = "abc_0", key: str = "value") -> dict:
    """A conversation with turns of human and assistant in turn."""
    turns = [{"from": ("human", "gpt")[n % 2], key: text} for n, text in enumerate(texts)]
    return {"id": name, "conversations": turns}


@pytest.fixture(name="conversation")
def conversation_fixture() -> Callable[..., dict]:
    """Makes a conversation from its texts."""
    return conversation
