"""The flags of fine-tuning: our own, the published recipe, and those of TrainingArguments.

Neither torch nor transformers is imported here, so that --help and a refused flag take a moment
instead of ten seconds.
"""

import argparse
import dataclasses
import math
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

from dialogue_format import DEFAULT_META_PROMPTS
from engraving_command import CommandParser
from training_flags import UNSUPPORTED, training_flags


def setting(default: object, help_text: str, **limits: object) -> object:
    """A dataclass field with its help and its limits: `least`, `above`, `below` or `choices`."""
    return field(default=default, metadata={"help": help_text, **limits})


@dataclass
class EngravingArguments:
    """What is engraved into what."""

    model_name_or_path: str = field(metadata={"help": "Folder (or Hub name) of the base model."})
    data_file: str = field(metadata={"help": "Merged training data: .json, .jsonl or .parquet."})
    output_dir: str = field(metadata={"help": "Folder of this run."})
    eval_data_file: str | None = setting(
        None, "Held-out records: loss and reply endings are measured before and after."
    )
    meta_prompt_pattern: str = setting(
        DEFAULT_META_PROMPTS, "Glob of the short system prompts, rotated by example_id."
    )
    source_max_len: int = setting(512, "Prompt tokens; longer ones lose their beginning.", least=2)
    target_max_len: int = setting(512, "Reply tokens; longer replies lose their end.", least=1)
    bits: int | None = setting(
        None, "4: NF4 base, 16: base in its own precision. 4 with CUDA, else 16.", choices=(4, 16)
    )
    full_finetune: bool = setting(False, "Train all weights instead of an adapter.")
    lora_r: int = setting(64, "Rank of the adapter.", least=1)
    lora_alpha: float = setting(16.0, "Scale of the adapter: alpha / rank.", above=0)
    lora_dropout: float = setting(0.0, "Dropout in front of the adapter.", least=0, below=1)
    lora_target_modules: str = setting(
        "all-linear", "Layers that get the adapter, as q_proj,v_proj; all-linear: all but the head."
    )
    packing: bool = setting(True, "Lay examples end to end; false pads them instead.")
    resume: str = setting(
        "auto",
        "'auto' goes on from the newest good checkpoint; 'never' wants a fresh output_dir.",
        choices=("auto", "never"),
    )
    eval_replies: int = setting(
        16, "Held-out prompts that are answered to see whether replies end.", least=0
    )
    eval_reply_tokens: int = setting(
        256, "Tokens after which such a reply counts as endless.", least=1
    )
    device: str = setting("auto", "Where to train.", choices=("auto", "cuda", "cpu"))


@dataclass
class RecipeArguments:
    """The flags of TrainingArguments that have another default here: the published recipe."""

    learning_rate: float = setting(1e-4, "Peak learning rate.", above=0)
    lr_scheduler_type: str = setting("cosine", "Learning rate schedule.")
    warmup_ratio: float = setting(0.03, "Share of all steps that warm up.", least=0, below=1)
    warmup_steps: float | None = setting(
        None, "Steps that warm up (below 1: their share), instead of --warmup_ratio.", least=0
    )
    num_train_epochs: float = setting(1.0, "Passes over the data.", above=0)
    max_steps: int = setting(-1, "Optimizer steps, instead of --num_train_epochs.", least=-1)
    per_device_train_batch_size: int = setting(
        4, "Examples in a micro-batch of one process.", least=1
    )
    gradient_accumulation_steps: int = setting(
        4, "Micro-batches of one process in a step.", least=1
    )
    max_grad_norm: float = setting(0.3, "Gradients are clipped to this norm; 0: never.", least=0)
    weight_decay: float = setting(0.0, "Weight decay.", least=0)
    seed: int = setting(42, "Of the batches, the adapter and dropout.", least=0)
    bf16: bool | None = setting(None, "bfloat16 autocast. True where a GPU has it.")
    use_cpu: bool = setting(False, "The same as --device cpu.")
    logging_steps: float = setting(1, "Steps between two lines of the log.", above=0)
    save_steps: float = setting(50, "Steps between two checkpoints.", above=0)
    save_total_limit: int | None = setting(2, "Checkpoints to keep; 0: all.", least=0)
    disable_tqdm: bool | None = setting(None, "Log lines instead of a bar. True if not a terminal.")
    ddp_find_unused_parameters: bool = setting(False, "All trained weights get gradients.")
    activation_checkpointing: bool | None = setting(
        None, "Compute activations twice instead of keeping them. True with CUDA."
    )

    def values(self, output_dir: str) -> dict[str, object]:
        """As TrainingArguments names them: a warm-up below one step is a share of all steps."""
        values = dataclasses.asdict(self) | {"output_dir": output_dir}
        warmup_ratio = values.pop("warmup_ratio")
        if self.warmup_steps is None:
            values["warmup_steps"] = warmup_ratio
        return values


def parse_arguments(
    description: str, argv: list[str] | None = None
) -> tuple[EngravingArguments, RecipeArguments, dict[str, list[str]]]:
    """Both sets of flags, and those that only TrainingArguments knows, as texts.

    Exits with code 2 on an unknown flag, a bad value or a missing file.
    """
    parser = _build_parser(description)
    given = vars(parser.parse_args(argv))
    engraving, recipe = (
        owner(**{one.name: given.pop(one.name) for one in dataclasses.fields(owner)})
        for owner in (EngravingArguments, RecipeArguments)
    )
    for name in given:
        if name in UNSUPPORTED:
            parser.error(f"--{name} is not supported: {UNSUPPORTED[name]}")
    _check_values(parser, engraving)
    _check_values(parser, recipe)
    if engraving.full_finetune and engraving.bits == 4:
        parser.error("--full_finetune needs --bits 16: 4-bit weights can't be trained")
    if "fsdp" in given and engraving.bits == 4:
        parser.error("--fsdp needs --bits 16: a 4-bit base stays whole on every GPU")
    if recipe.max_steps == 0:
        parser.error("--max_steps 0 would train nothing; -1 leaves it to --num_train_epochs")
    if recipe.use_cpu and engraving.device == "cuda":
        parser.error("--use_cpu and --device cuda exclude each other")
    _check_files(parser, engraving)
    return engraving, recipe, given


def _build_parser(description: str) -> CommandParser:
    parser = CommandParser(description)
    ours = {"output_dir"}
    for owner in (EngravingArguments, RecipeArguments):
        group = parser.add_argument_group(owner.__doc__.rstrip("."))
        hints = get_type_hints(owner)
        for one in dataclasses.fields(owner):
            _add_flag(group, one, hints[one.name])
            ours.add(one.name)
    further = parser.add_argument_group("Further flags of transformers' TrainingArguments")
    for name, help_text in training_flags().items():
        if name not in ours:
            shown = argparse.SUPPRESS if name in UNSUPPORTED else help_text.replace("%", "%%")
            options = {"nargs": "*", "metavar": "VALUE", "default": argparse.SUPPRESS}
            further.add_argument(*_spellings(name), **options, help=shown)
    return parser


def _add_flag(group: object, one: dataclasses.Field, hint: object) -> None:
    """A flag of ours; a truth value may stand alone, and may be taken back by --no_NAME."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not types.NoneType]
    options: dict = {"help": one.metadata["help"], "type": kinds[0]}
    if one.default is dataclasses.MISSING:
        group.add_argument(*_spellings(one.name), required=True, **options)
        return
    options |= {"default": one.default, "choices": one.metadata.get("choices")}
    if kinds == [bool]:
        options |= {"type": _truth, "nargs": "?", "const": True, "metavar": "true|false"}
        hidden = {"dest": one.name, "action": "store_false", "default": argparse.SUPPRESS}
        group.add_argument(*_spellings(f"no_{one.name}"), **hidden, help=argparse.SUPPRESS)
    group.add_argument(*_spellings(one.name), **options)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


def _truth(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"'{text}' must be true or false")
    return known[text.lower()]


def _check_values(parser: CommandParser, values: EngravingArguments | RecipeArguments) -> None:
    """Ends where a number is not finite or outside its limits."""
    for one in dataclasses.fields(values):
        value = getattr(values, one.name)
        if not isinstance(value, int | float):
            continue
        limits = {
            "must be a finite number": math.isfinite(value),
            "must be at least {least}": value >= one.metadata.get("least", value),
            "must be above {above}": "above" not in one.metadata or value > one.metadata["above"],
            "must be below {below}": "below" not in one.metadata or value < one.metadata["below"],
        }
        for limit, is_met in limits.items():
            if not is_met:
                parser.error(f"--{one.name} {value} {limit.format(**one.metadata)}")


def _check_files(parser: CommandParser, engraving: EngravingArguments) -> None:
    model = engraving.model_name_or_path
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_local and not (Path(model) / "config.json").is_file():
        parser.error(
            f"no model in '{model}': --model_name_or_path takes a folder with a config.json, "
            "or a Hub name"
        )
    for name in ("data_file", "eval_data_file"):
        path = getattr(engraving, name)
        if path is not None and not Path(path).is_file():
            parser.error(f"no file '{path}'; --{name} takes a local file")
