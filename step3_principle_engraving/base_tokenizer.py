"""The base's tokenizer as it was meant: what a file forgot is taken from the SentencePiece model,
and what a training run left in it (cuts, padding, dropout) is switched off.
"""

from pathlib import Path

import sentencepiece
from engraving_command import UserError
from plain_files import read_json, refuse_lfs_pointer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def load_tokenizer(model_name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name. Raises UserError where it can't be loaded."""
    folder = Path(model_name_or_path)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            refuse_lfs_pointer(folder / name)
    settings = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_name_or_path,
            clean_up_tokenization_spaces=False,
            **_forgotten_tokens(folder, settings),
        )
    except Exception as error:  # tokenizers raises nothing more specific
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"the tokenizer of '{model_name_or_path}' can't be loaded: {first_line} "
            "(--model_name_or_path takes a local folder; without a network, only that)"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        if _is_bare(folder) and settings.get("add_bos_token", True) and tokenizer.bos_token:
            # transformers 5 adds none to a bare SentencePiece model, which has always had one.
            backend.post_processor = TemplateProcessing(
                single=f"{tokenizer.bos_token} $A",
                special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)],
            )
    return tokenizer


def begin_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer by itself puts in front of a text: its BOS, or nothing."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def special_texts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The special tokens' texts."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def _is_bare(folder: Path) -> bool:
    return (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()


def _forgotten_tokens(folder: Path, settings: dict) -> dict[str, str]:
    """The special tokens that the settings leave out or empty, by SentencePiece's names."""
    missing = [name for name in NAMED_TOKENS if not settings.get(name)]
    if not missing or not _is_bare(folder):
        return {}
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except RuntimeError:  # another kind of file under that name
        return {}
    ids = {"bos_token": pieces.bos_id(), "eos_token": pieces.eos_id(), "unk_token": pieces.unk_id()}
    return {name: pieces.id_to_piece(ids[name]) for name in missing if ids[name] >= 0}
