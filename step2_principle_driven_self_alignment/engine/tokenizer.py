"""SentencePiece and Hugging Face tokenizers behind one face: token ids in, bytes out.

Responses are put together from the bytes of their tokens, so that text is exact however a
character or a marker is cut into tokens.
"""

import base64
import json
import re
from abc import ABC, abstractmethod
from pathlib import Path

import sentencepiece
import tokenizers
from user_error import UserError

from engine.model_config import ConfigFile, find_tokenizer

LLAMA_3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>")
LLAMA_3_SPECIALS = 256  # behind the ranked tokens; the model's file doesn't name them


class Tokenizer(ABC):
    """Text to token ids and back. `token_bytes[i]` is what token i adds to a text."""

    bos_id: int | None
    eos_ids: frozenset[int]
    token_bytes: list[bytes]

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS or EOS."""

    def encode_prefix(self, text: str, *, after_bos: bool = False) -> list[int]:
        """Token ids of a text at the beginning: exactly one BOS where the model has one.

        `after_bos`: the text goes on behind it, as in a chat template, and gets no blank in front.
        """
        begin = [] if self.bos_id is None else [self.bos_id]
        if after_bos and begin:
            return begin + self.encode_continuation(text, "\n")
        return begin + (self._encode(text) if text else [])

    def encode_continuation(self, text: str, anchor: str) -> list[int]:
        """Token ids of a text that follows `anchor`, which is the end of the prefix.

        Encoded together, so that no tokenizer takes the text for a beginning; then the anchor's
        own tokens are taken off. Where text and anchor melt into one token, a line break stands in
        for the anchor. An empty anchor means that the text is the beginning.
        """
        if not anchor:
            return self._encode(text)
        for before in (anchor, "\n"):
            before_ids = self._encode(before)
            both = self._encode(before + text)
            if both[: len(before_ids)] == before_ids:
                return both[len(before_ids) :]
        return self._encode(text)

    def bytes_of(self, token_id: int) -> bytes:
        """What a token adds to a text: nothing, if it only pads the model's vocabulary."""
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return len(self.token_bytes)


class SentencePieceTokenizer(Tokenizer):
    """A `tokenizer.model`."""

    def __init__(self, path: Path) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        processor = self._processor
        self.bos_id = processor.bos_id() if processor.bos_id() >= 0 else None
        self.eos_ids = frozenset(i for i in (processor.eos_id(),) if i >= 0)
        self.token_bytes = [self._bytes_of(i) for i in range(processor.get_piece_size())]

    def _encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def _bytes_of(self, token_id: int) -> bytes:
        if self._processor.is_control(token_id):
            return b""
        piece = self._processor.id_to_piece(token_id)
        if self._processor.is_byte(token_id):
            return bytes([int(piece[3:-1], 16)])  # "<0x0A>"
        if self._processor.is_unknown(token_id):
            return " \u2047 ".encode()
        return piece.replace("\u2581", " ").encode()


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json`, of the byte-level kind (Llama 3, Qwen) or SentencePiece's."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, named: dict[str, object]) -> None:
        """`named`: what a tokenizer_config.json says of BOS and EOS."""
        self._tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # a user who spells "</s>" means the letters
        # What a training run saved for itself: texts cut short, filled up, cut into random pieces.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None) is not None:
            tokenizer.model.dropout = None
        settings = json.loads(tokenizer.to_str())
        self._special = {t["id"] for t in settings.get("added_tokens", []) if t.get("special")}
        byte_level = '"ByteLevel"' in json.dumps(settings.get("decoder"))
        to_bytes = _byte_level_bytes if byte_level else _metaspace_bytes
        added = {t["id"] for t in settings.get("added_tokens", [])}
        pieces = tokenizer.get_vocab(with_added_tokens=True)
        self.token_bytes = [b""] * (max(pieces.values()) + 1)
        for piece, token_id in pieces.items():
            if token_id not in self._special:
                plain = piece.encode() if token_id in added else to_bytes(piece)
                self.token_bytes[token_id] = plain
        self.bos_id = self._find_bos(named)
        self.eos_ids = frozenset(self._named_token(named, "eos_token"))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _find_bos(self, named: dict[str, object]) -> int | None:
        """The token that the model expects first: none for families such as Qwen."""
        first = self._tokenizer.encode("", add_special_tokens=True).ids
        if first and first[0] in self._special:
            return first[0]
        if named.get("add_bos_token") is False:
            return None
        return next(iter(self._named_token(named, "bos_token")), None)

    def _named_token(self, named: dict[str, object], name: str) -> list[int]:
        token = named.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        token_id = self._tokenizer.token_to_id(content) if content else None
        return [] if token_id is None else [token_id]


def load_tokenizer(path: Path) -> Tokenizer:
    """Loads a tokenizer file, or the one in a model's folder; UserError if there is none.

    A folder's `tokenizer.model` is preferred if it can be read: SentencePiece's, or Llama 3's.
    """
    found = find_tokenizer(path)
    for file in found:
        if file.suffix == ".json":
            return _load_json(file)
        try:
            if _is_tiktoken(file):
                return _load_tiktoken(file)
            return SentencePieceTokenizer(file)
        except (RuntimeError, OSError, ValueError) as error:
            if file == found[-1]:
                raise UserError(
                    f"{file} is neither a SentencePiece model nor Llama 3's: {error}"
                ) from error
    raise AssertionError("unreachable")


def _load_json(file: Path) -> HuggingFaceTokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more specific
        raise UserError(f"{file} is not a tokenizer that can be read: {error}") from error
    config = file.parent / "tokenizer_config.json"
    named = ConfigFile(config).values if config.is_file() else {}
    return HuggingFaceTokenizer(tokenizer, named)


def _is_tiktoken(file: Path) -> bool:
    """Whether lines are tokens in base64 and their ranks, as in Llama 3's tokenizer.model."""
    with file.open("rb") as opened:
        return re.fullmatch(rb"[A-Za-z0-9+/=]+ 0\r?\n", opened.readline(256)) is not None


def _load_tiktoken(file: Path) -> HuggingFaceTokenizer:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(path: str) -> dict[bytes, int]:
            lines = (line.split() for line in Path(path).read_bytes().splitlines() if line)
            return {base64.b64decode(token): int(rank) for token, rank in lines}

    begin, end = LLAMA_3_SPECIAL
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(LLAMA_3_SPECIALS - 2)]
    special = [begin, end, *reserved]
    tokenizer = Converter(vocab_file=str(file), extra_special_tokens=special).converted()
    return HuggingFaceTokenizer(tokenizer, {"bos_token": begin, "eos_token": end})


def _metaspace_bytes(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:-1], 16)])
    return piece.replace("\u2581", " ").encode()


def _byte_level_bytes(piece: str) -> bytes:
    return piece.translate(BYTE_OF_CHARACTER).encode("latin-1")


def _byte_level_alphabet() -> dict[int, int]:
    """GPT-2's printable character for each byte, turned around."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {256 + number: byte for number, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_level_alphabet()  # of those that stand for another one
