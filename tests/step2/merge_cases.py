"""Shards of small runs, as the generator leaves them, for the tests of the merge."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from prompt_file import prompt_id_of, read_prompts
from prompt_format import SELF_ALIGN, PromptFormat
from response_shards import encode_row, manifest_path, shard_path
from run_manifest import RunManifest, hash_prompt_ids, hash_text

REPOSITORY = Path(__file__).resolve().parents[2]
PRINCIPLE_PROMPT = REPOSITORY / "prompts" / "watson_self_align_prompt.txt"
OPENING = "Before I answer, I consider which of my principles apply here."
REPLY = (
    "Rivers carry sand to the sea, where waves sort the grains by weight and wind blows the "
    "light ones inland, until tough grasses hold them fast in long and slowly wandering dunes."
)
THOUGHTS = "Principle 2 (informative) and principle 8 (knowledge recitation) apply."


def prompt(number: int, **fields) -> dict:
    """A prompt record as step 1 writes it."""
    instruction = fields.pop("instruction", f"Tale {number}?")
    text = fields.pop("input", "")
    source = ("dolly", "sharegpt")[number % 2]
    made = {"id": prompt_id_of(instruction, text), "instruction": instruction, "input": text}
    return {**made, "output": "", "source": source, **fields}


def response(number: int, reply: str = "", **fields) -> dict:
    """A good response to `prompt(number)`, with the given changes."""
    reply = reply or f"Tale {number} goes like this. {REPLY}"
    output = fields.pop("output", f" {OPENING} {THOUGHTS}\n\nWatson: {reply}")
    ending = {"finish_reason": "stop", "prompt_tokens": 9, "output_tokens": 80, **fields}
    return {**prompt(number, **ending), "output": output}


@dataclass
class Run:
    """A run's folder and name, and how to merge it."""

    folder: Path
    name: str = "run"

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def shard(
        self, size: int, rank: int, rows: list[dict], end: bytes = b"", launch: int = 0
    ) -> Path:
        """Writes one shard; `end` follows behind the whole rows."""
        path = shard_path(self.path, size, rank, launch)
        path.write_bytes(b"".join(map(encode_row, rows)) + end)
        return path

    def manifest(
        self,
        prompts: list[dict],
        dialogue: PromptFormat = SELF_ALIGN,
        limit: int | None = None,
    ) -> None:
        """Writes the prompt file and the manifest that the generator leaves beside the shards."""
        prompt_file = self.folder / "prompts.json"
        prompt_file.write_text(json.dumps(prompts))
        ids = [record["id"] for record in read_prompts(prompt_file)][:limit]
        texts = dict.fromkeys(
            ("model_config", "weights", "tokenizer", "principle_prompt", "filter_rules"), "0"
        )
        RunManifest(
            **{**texts, "principle_prompt": hash_text(PRINCIPLE_PROMPT.read_text().rstrip())},
            keep_going=False,
            temperature=0.7,
            top_p=0.95,
            seed=42,
            max_new_tokens=512,
            max_own_tokens=768,
            dtype="float32",
            prompt_file_hash="0",
            prompts=len(ids),
            prompt_ids_hash=hash_prompt_ids(ids),
            input_file=str(prompt_file),
            prompt_format=asdict(dialogue),
        ).save(manifest_path(self.path))

    def merge(self, monkeypatch, *flags, pattern="run_*shards_*.jsonl", output="merged.json"):
        """Runs the merge's main in this process; returns the records that it wrote."""
        import merge_and_filter_self_align_with_dummy as script

        output_file = self.folder / output
        arguments = ["--data_file_pattern", self.folder / pattern, "--output_file", output_file]
        monkeypatch.setattr(sys, "argv", ["merge", *map(str, [*arguments, *flags])])
        script.main()
        return read_records(output_file)

    def report(self, output="merged") -> dict:
        return json.loads((self.folder / f"{output}.report.json").read_text())


def read_records(path: Path) -> list[dict]:
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def responses_among(records: list[dict]) -> list[dict]:
    return [record for record in records if record["source"] != "dummy"]
