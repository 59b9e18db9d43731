"""How many tokens a text has, counted in batches by compiled tokenizers, without special tokens."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers
from command_line import InputError, UnreachableError
from prompt_sources import HUB_NAME
from row_files import refuse_lfs_pointer

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")
FLAG = "--tokenizer_name"
LimitedLengths = Callable[[Sequence[str], int], list[int]]
BatchLengths = Callable[[Sequence[str]], list[int]]
SPACE = "\u2581"  # how SentencePiece writes a space
# where one word ends and the next begins; runs of spaces stay inside a chunk
WORD_BOUNDARY = re.compile(r"(?<=[^ \u2581]) (?=[^ \u2581])")
PIECE_ACROSS_WORDS = re.compile(r"[^\u2581]\u2581")
LONGEST_REMEMBERED = 40  # characters
MOST_REMEMBERED = 300_000  # words; about 40 MB


# How step 2 puts a user prompt behind its principles, in the dialogue of the self-align prompt.
BEFORE, CUE = "User:", "\n\nWatson (internal thoughts):"


class TokenCounter:
    """Counts tokens with one tokenizer.

    A SentencePiece model is counted by SentencePiece itself, word by word where that is exact:
    transformers' conversion of such a model to the Rust library miscounts runs of spaces.
    """

    def __init__(self, tokenizer_name: str) -> None:
        """Loads the tokenizer of a file, a folder or a Hub repository.

        Raises:
            InputError: there is none, or it is of an unknown format.
        """
        self._lengths, vocabulary, file = _load(_tokenizer_file(tokenizer_name))
        self.longest_piece = max(map(len, vocabulary))  # characters
        self.description = {
            "name": tokenizer_name,
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        self._before = self.count([BEFORE], 1000)[0]
        self.cue = self.count_in_dialogue(["a"], 1000)[0] - self.count(["a"], 1000)[0]  # tokens

    def count(self, texts: Sequence[str], limit: int) -> list[int]:
        """The token count of each text; `limit + 1` for one whose size alone is too much.

        So a prompt of many megabytes costs nothing.
        """
        lengths = [limit + 1] * len(texts)
        short = [i for i, text in enumerate(texts) if not self.surely_longer(text, limit)]
        counted = self._lengths([texts[i] for i in short], limit)
        for index, length in zip(short, counted, strict=True):
            lengths[index] = length
        return lengths

    def count_in_dialogue(self, texts: Sequence[str], limit: int) -> list[int]:
        """The tokens that step 2 gives each prompt: its own and those of the cue behind it.

        Step 2 leaves `--max_own_tokens` less `--max_new_tokens` for them, 256. The token that
        begins a text stands before the principles and takes none of this room.
        """
        framed = [f"{BEFORE} {text}{CUE}" for text in texts]
        lengths = self.count(framed, limit + self._before)
        return [length - self._before for length in lengths]

    def surely_longer(self, text: str, limit: int) -> bool:
        """Whether no tokenisation of the text fits into `limit` tokens."""
        most_characters = limit * self.longest_piece
        if len(text) <= most_characters:
            return False
        # some tokenizers merge whitespace before they count: measure without its runs
        return len(text) > 100 * most_characters or len(" ".join(text.split())) > most_characters


def _tokenizer_file(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        for file_name in TOKENIZER_FILES:
            if (path / file_name).is_file():
                return path / file_name
        raise InputError(f"{FLAG}: the folder {name} holds no {' or '.join(TOKENIZER_FILES)}")
    if HUB_NAME.fullmatch(name) and not name.endswith((".model", ".json")):
        return _hub_tokenizer_file(name)
    raise InputError(f"{FLAG}: no such file or folder: {name}")


def _hub_tokenizer_file(name: str) -> Path:
    from huggingface_hub import hf_hub_download  # slow to import, and needed for Hub names only
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        try:
            return Path(hf_hub_download(name, TOKENIZER_FILES[0]))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return Path(hf_hub_download(name, TOKENIZER_FILES[1]))
    except Exception as error:  # whatever the Hub's client raises: the remedy is the same
        raise UnreachableError(
            f"{name}: no such local file or folder, and the Hugging Face Hub did not give a "
            f"tokenizer of that name ({type(error).__name__}); {FLAG} also takes a local "
            "tokenizer.model, tokenizer.json or model folder"
        ) from error


def _load(path: Path) -> tuple[LimitedLengths, list[str], Path]:
    """(texts, limit -> lengths), the pieces of the vocabulary, and the file that was read."""
    refuse_lfs_pointer(path)
    if path.suffix == ".json":
        return *_load_rust(path), path
    try:
        return *_load_sentencepiece(path), path
    except (RuntimeError, OSError) as error:
        beside = path.with_name("tokenizer.json")
        if beside.is_file():  # Llama 3 folders: their tokenizer.model is of another kind
            return *_load_rust(beside), beside
        raise InputError(
            f"{path}: not a SentencePiece model; give {FLAG} a tokenizer.model of SentencePiece "
            "or a tokenizer.json"
        ) from error


def _load_sentencepiece(path: Path) -> tuple[LimitedLengths, list[str]]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]

    def lengths(texts: Sequence[str], limit: int = 0) -> list[int]:
        return [len(ids) for ids in processor.encode(list(texts), num_threads=_threads())]

    starts_with_space = processor.encode("a", out_type=str)[0].startswith(SPACE)
    if starts_with_space and pieces_stay_within_words(pieces):
        return WordwiseLengths(lengths).count, pieces
    return lengths, pieces


def _load_rust(path: Path) -> tuple[LimitedLengths, list[str]]:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: not a readable tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def lengths(texts: Sequence[str], limit: int = 0) -> list[int]:
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    return lengths, list(tokenizer.get_vocab())


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def pieces_stay_within_words(vocabulary: Iterable[str]) -> bool:
    """Whether no piece of the vocabulary reaches from one word into the next.

    Then the words of a text are tokenised independently of each other, with byte-pair merges as
    with unigrams, and their counts add up.
    """
    return not any(PIECE_ACROSS_WORDS.search(piece) for piece in vocabulary)


class WordwiseLengths:
    """Counts texts by their words. Needs a SentencePiece model that puts "▁" before each text."""

    def __init__(self, batch_lengths: BatchLengths) -> None:
        self._batch_lengths = batch_lengths
        self._known: dict[str, int] = {}
        self._long_words: list[str] = []

    def count(self, texts: Sequence[str], limit: int) -> list[int]:
        """The token count of each text; `limit + 1` for one of more words than `limit`."""
        split = [_words(text) for text in texts]
        split = [words if len(words) <= limit else None for words in split]
        if len(self._known) > MOST_REMEMBERED:
            self._known.clear()
        self._learn({word for words in split if words for word in words})
        known = self._known
        lengths = [
            limit + 1 if words is None else sum([known[word] for word in words]) for words in split
        ]
        self._forget_long_words()
        return lengths

    def _learn(self, words: set[str]) -> None:
        unknown = sorted(words - self._known.keys())
        if unknown:
            self._known.update(zip(unknown, self._batch_lengths(unknown), strict=True))
            self._long_words = [word for word in unknown if len(word) > LONGEST_REMEMBERED]

    def _forget_long_words(self) -> None:
        for word in self._long_words:
            del self._known[word]
        self._long_words = []


def _words(text: str) -> list[str]:
    if "  " in text or SPACE in text or text.startswith(" ") or text.endswith(" "):
        return WORD_BOUNDARY.split(text)
    return text.split(" ")  # the same, and faster
