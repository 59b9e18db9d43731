"""What a generation run is made of: the manifest beside its shards.

`NAME.manifest.json` holds a fingerprint of everything that a response depends on (model,
tokenizer, principle prompt, sampling, rules for giving up) and of the prompts to be answered. The
first launch of a run writes it; every later launch is held against it and refused where it
differs, so that one set of shards never mixes two runs.
"""

import argparse
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from engine.model_config import find_tokenizer, weight_files
from filter_settings import FilterSettings
from prompt_format import SELF_ALIGN, PromptFormat
from user_error import UserError

SAMPLES_PER_FILE = 64
SAMPLE_BYTES = 4096
FLAG_OF_HASH = {
    "model_config": "--model_dir",
    "weights": "--model_dir",
    "tokenizer": "--tokenizer_path",
    "principle_prompt": "--prompt_file",
    "prompt_format": "--prompt_file",
    "filter_rules": "the flags of the filter rules",
    "prompt_file_hash": "--input_file",
}
REMEDY = "Go on with the settings of the run, or start another one with a new --output_file"
DAMAGED = "Remove it, and start the generation again, which writes it anew"


class RunDiffersError(UserError):
    """A launch doesn't belong to the run whose manifest it found."""


@dataclass(frozen=True)
class RunManifest:
    """The fingerprint of a run. Hashes are SHA-256 in hexadecimal."""

    model_config: str
    weights: str
    tokenizer: str
    principle_prompt: str
    filter_rules: str
    keep_going: bool
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int
    max_own_tokens: int
    dtype: str
    prompt_file_hash: str  # over id, instruction and input of every prompt, --limit or not
    prompts: int  # how many are to be answered
    prompt_ids_hash: str  # over the ids of those, sorted, one a line
    input_file: str = ""  # where the prompts lay at the first launch; not compared
    prompt_format: dict[str, Any] = field(default_factory=lambda: asdict(SELF_ALIGN))

    @classmethod
    def load(cls, path: Path) -> "RunManifest":
        """Reads a manifest; UserError where it isn't one, FileNotFoundError without it."""
        try:
            content = json.loads(path.read_bytes())
            _check_content(cls, content)
        except ValueError as error:
            raise UserError(f"{path} is not a run's manifest: {error}. {DAMAGED}") from None
        told = asdict(PromptFormat(**content.get("prompt_format", {})))
        return cls(**{**content, "prompt_format": told})

    def save(self, path: Path) -> None:
        """Writes the manifest beside and renames it."""
        temporary = self._write_beside(path)
        temporary.replace(path)

    def create(self, path: Path) -> bool:
        """Writes the manifest unless there is one already; says whether it did.

        Of several launches that start at once exactly one succeeds.
        """
        temporary = self._write_beside(path)
        try:
            path.hardlink_to(temporary)  # unlike a rename, this never replaces a file
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def difference(self, other: "RunManifest") -> str | None:
        """The first field in which two runs differ, apart from --limit; None if they are one."""
        free = {"prompts", "prompt_ids_hash", "input_file"}
        for name in asdict(self):
            if name not in free and getattr(self, name) != getattr(other, name):
                return name
        return None

    @property
    def dialogue(self) -> PromptFormat:
        """How the dialogue of the run's prompt file goes."""
        return PromptFormat(**self.prompt_format)

    def check(self, path: Path) -> "RunManifest | None":
        """The manifest at `path`, None if there is none; RunDiffersError if it is another run's."""
        if not path.exists():
            return None
        present = RunManifest.load(path)
        name = present.difference(self)
        if name is None:
            return present
        flag = FLAG_OF_HASH.get(name, f"--{name}")
        here, there = getattr(self, name), getattr(present, name)
        if name == "prompt_format":
            part = next(key for key in here if here[key] != there.get(key))
            name, here, there = f"{name}.{part}", here[part], there.get(part)
        raise RunDiffersError(
            f"this launch differs from the run in {path}: {name} ({flag}) is {here!r} here and "
            f"{there!r} there. {REMEDY}"
        )

    def join(self, path: Path) -> "RunManifest":
        """Creates the run at `path`, or joins it; returns the manifest that holds from now on.

        Raises RunDiffersError, naming the field, where this launch would be another run. A
        greater --limit raises the number of prompts in the manifest; a smaller one leaves it.
        """
        if not path.exists() and self.create(path):
            return self
        present = self.check(path)
        assert present is not None
        if self.prompts <= present.prompts:
            return present
        raised = replace(present, prompts=self.prompts, prompt_ids_hash=self.prompt_ids_hash)
        raised.save(path)
        return raised

    def _write_beside(self, path: Path) -> Path:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        return temporary


def describe_run(
    args: argparse.Namespace,
    prompts: list[dict[str, Any]],
    principle_prompt: str,
    rules: FilterSettings,
) -> RunManifest:
    """The manifest of the run that the generator's arguments ask for; reads the model's files."""
    limited_ids = [prompt["id"] for prompt in prompts[: args.limit]]
    return RunManifest(
        model_config=hash_model_config(args.model_dir),
        # A dry run plans before the weights are there.
        weights=hash_weights(args.model_dir, may_lack=args.dry_run),
        tokenizer=hash_tokenizer(args.tokenizer_path or args.model_dir),
        principle_prompt=hash_text(principle_prompt),
        filter_rules="" if args.keep_going else hash_rules(rules),
        keep_going=args.keep_going,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        max_own_tokens=args.max_own_tokens,
        dtype=args.dtype,
        prompt_file_hash=hash_records(prompts),
        prompts=len(limited_ids),
        prompt_ids_hash=hash_prompt_ids(limited_ids),
        input_file=str(args.input_file.resolve()),
        prompt_format=asdict(rules.dialogue),
    )


def _check_content(manifest: type[RunManifest], content: Any) -> None:
    """Raises ValueError where a manifest's fields are not those that it has."""
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    known = {field.name: field for field in fields(manifest)}
    missing = [
        name
        for name, known_field in known.items()
        if name not in content and known_field.default is known_field.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}")
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"{name!r} is none of its fields")
        kinds = {float: (int, float), dict[str, Any]: dict}.get(known[name].type, known[name].type)
        if not isinstance(value, kinds):
            raise ValueError(f"{name} is {value!r}")
    if content.get("prompt_format", {}).keys() - asdict(SELF_ALIGN).keys():
        raise ValueError(f"prompt_format is {content['prompt_format']!r}")


def hash_rules(rules: FilterSettings) -> str:
    """SHA-256 of what decides which responses are given up; "" where none is."""
    if rules.dialogue.rules == "none":
        return ""
    settings = {name: value for name, value in asdict(rules).items() if name != "dialogue"}
    return hash_text(json.dumps(settings, sort_keys=True))


def hash_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a whole (small) file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_tokenizer(path: Path) -> str:
    """SHA-256 of a tokenizer file, or of the one in a folder."""
    return hash_file(find_tokenizer(path)[0])


def hash_model_config(model_dir: Path) -> str:
    """SHA-256 of the model's `config.json` or `params.json`."""
    for name in ("config.json", "params.json"):
        if (model_dir / name).is_file():
            return hash_file(model_dir / name)
    found = "has neither config.json nor params.json" if model_dir.is_dir() else "is no folder"
    raise UserError(f"{model_dir} {found}; --model_dir takes the folder of a base model")


def hash_weights(model_dir: Path, *, may_lack: bool = False) -> str:
    """SHA-256 over name, size and samples of the weight files: telling, and quick at any size.

    UserError if there are none; "" if they `may_lack`.
    """
    files = weight_files(model_dir)
    if not files and may_lack:
        return ""
    if not files:
        raise UserError(f"{model_dir} has no weights: neither *.safetensors nor *.pth")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for sample in _samples(path):
            digest.update(sample)
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    step = max(SAMPLE_BYTES, size // SAMPLES_PER_FILE)
    with path.open("rb") as file:
        for start in range(0, size, step):  # the first one holds a safetensors header
            file.seek(start)
            yield file.read(SAMPLE_BYTES)


def hash_records(records: Iterable[dict]) -> str:
    """SHA-256 over id, instruction and input of the prompt records, in the order given."""
    digest = hashlib.sha256()
    for record in records:
        for name in ("id", "instruction", "input"):
            digest.update(record[name].encode() + b"\0")
    return digest.hexdigest()


def hash_prompt_ids(ids: Iterable[str]) -> str:
    """SHA-256 over the sorted ids, one a line, in hexadecimal."""
    digest = hashlib.sha256()
    for prompt_id in sorted(ids):
        digest.update(prompt_id.encode() + b"\n")
    return digest.hexdigest()
