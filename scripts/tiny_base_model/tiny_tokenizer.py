"""The tokenizer of the tiny base model: SentencePiece BPE with byte fallback, as LLaMA's.

It is trained on synthetic conversations and on the texts that the pipeline puts in front of them,
so that these come to few tokens: the principle prompt, the inference prompts and the turn markers.
Newlines become bytes, as in LLaMA's tokenizer.
"""

import io
import json
from pathlib import Path

import sentencepiece
from tokenizers.processors import TemplateProcessing
from transformers import LlamaTokenizer

NEWLINE_STAND_IN = "¶"  # no newline reaches SentencePiece, yet pieces that follow one are learned
FIXED_TEXT_REPEATS = 200
ENGRAVED_TURN = (
    "\n\n### Dromedary\nI am Dromedary, an AI assistant made by the Self-Align team.\n\n### User\n"
)


def train_tokenizer(texts: list[str], fixed_texts: list[str], vocabulary: int) -> bytes:
    """A serialized SentencePiece model with `vocabulary` pieces."""
    model = io.BytesIO()
    lines = texts + [*fixed_texts, ENGRAVED_TURN] * FIXED_TEXT_REPEATS
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line.replace("\n", NEWLINE_STAND_IN) for line in lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.9999,
        max_sentence_length=100_000,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def save_tokenizer(model: bytes, folder: Path) -> None:
    """Writes tokenizer.model for SentencePiece, and tokenizer.json with a BOS for transformers."""
    (folder / "tokenizer.model").write_bytes(model)
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]} $B", special_tokens=[bos]
    )
    tokenizer.save_pretrained(folder)


def fixed_texts(repository: Path) -> list[str]:
    """The texts that the pipeline itself puts before and around a conversation."""
    files = [
        repository / "prompts" / "watson_self_align_prompt.txt",
        repository / "prompts" / "required_opening.txt",
        *sorted((repository / "prompts" / "inference_prompts").glob("*_distill.txt")),
    ]
    texts = [path.read_text(encoding="utf-8") for path in files]
    entries = json.loads(
        (repository / "dummy_data" / "identity_texts.json").read_text(encoding="utf-8")
    )
    english = [entry for entry in entries if entry["language"] == "en"]
    questions = [question for entry in english for question in entry["questions"]]
    answers = [answer for entry in english for answer in entry["answers"]]
    names = {"{assistant_name}": "Dromedary", "{developer}": "the Self-Align team"}
    for blank, name in names.items():
        answers = [answer.replace(blank, name) for answer in answers]
    return texts + questions + answers
