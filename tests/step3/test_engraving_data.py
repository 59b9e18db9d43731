"""Token by token: what the model reads, where loss falls, and how long texts are cut."""

import copy

import pytest
import torch
from base_tokenizer import begin_ids
from dialogue_format import MetaPrompt
from engraving_command import UserError
from engraving_data import (
    IGNORED,
    DialogueTokenizer,
    EngravingData,
    Example,
    packed_batch,
    padded_batch,
)
from tokenizers.processors import TemplateProcessing
from training_records import TrainingRecord

BRIEF = MetaPrompt("brief", "Be brief.")
KINDS = ("sentencepiece_tokenizer", "byte_level_tokenizer")


def data_of(tokenizer, *records, metas=(BRIEF,), source=512, target=512):
    return EngravingData(list(records), tokenizer, list(metas), source, target)


def table(tokenizer, example):
    """(token, learned) rows; runs of prompt tokens are joined into one text."""
    learned = [label != IGNORED for label in example.labels]
    start = learned.index(True)
    rows = [(tokenizer.decode(example.input_ids[:start]), False)]
    pieces = tokenizer.convert_ids_to_tokens(example.input_ids[start:])
    return rows + list(zip(pieces, learned[start:], strict=True))


def test_table_of_tokens_sentencepiece(sentencepiece_tokenizer):
    """SentencePiece puts a space in front of a text tokenised alone: not inside a dialogue."""
    record = TrainingRecord(1, "Hi", "", "I am.\n\n### User\nOh\n\n### Dromedary\nNo.", True)
    example = data_of(sentencepiece_tokenizer, record)[0]
    rows = table(sentencepiece_tokenizer, example)
    assert rows[0] == ("<s>Be brief.\n\n### User\nHi\n\n### Dromedary\n", False)
    line_break = ("<0x0A>", True)
    end = [("</s>", True), line_break, line_break, ("###", True), ("▁Us", True), ("er", True)]
    end.append(line_break)
    asked = [("<0x4F>", False), ("h", False), ("<0x0A>", False), ("<0x0A>", False), ("###", False)]
    assert rows[1:] == [
        *[("I", True), ("▁am", True), (".", True), *end],
        *[*asked, ("▁Dromedary", False), ("<0x0A>", False)],
        *[("<0x4E>", True), ("o", True), (".", True), *end],
    ]


def test_table_of_tokens_byte_level(byte_level_tokenizer):
    """Line breaks merge with a full stop inside a reply, never with its end."""
    record = TrainingRecord(1, "Hi", "", "I am\n\nnine.", True)
    rows = table(byte_level_tokenizer, data_of(byte_level_tokenizer, record)[0])
    assert rows[0] == ("Be brief.\n\n### User\nHi\n\n### Dromedary\n", False)
    assert [piece for piece, learned in rows[1:] if learned] == [
        *["I", "Ġam", "ĊĊ", "nine", ".", "<|end_of_text|>", "ĊĊ", "###", "ĠUser", "Ċ"]
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", ["I am.", "  code", "Ünï ☃", "a\n\nb\n"])
def test_pieces_join_as_if_tokenised_at_once(kind, output, request):
    """Chat renders the whole dialogue as one text: training must have seen the same tokens."""
    tokenizer = request.getfixturevalue(kind)
    record = TrainingRecord(1, "Hi", "", f"{output}\n\n### User\nOh\n\n### Dromedary\nNo.", True)
    example = data_of(tokenizer, record)[0]
    text = (
        f"Be brief.\n\n### User\nHi\n\n### Dromedary\n{output.strip()}{tokenizer.eos_token}"
        f"\n\n### User\nOh\n\n### Dromedary\nNo.{tokenizer.eos_token}\n\n### User\n"
    )
    bos = tokenizer.decode(begin_ids(tokenizer))
    whole = tokenizer.encode(bos + text, add_special_tokens=False)
    assert example.input_ids == whole


def test_bos_as_the_tokenizer_itself_adds_it(sentencepiece_tokenizer, byte_level_tokenizer):
    """One was invented for tokenizers that add none, and an end token taken for one."""
    record = TrainingRecord(1, "Hi", "", "Yes.", True)
    bare = data_of(sentencepiece_tokenizer, record)[0]  # a SentencePiece model always had one
    assert bare.input_ids[0] == sentencepiece_tokenizer.bos_token_id
    assert bare.input_ids.count(sentencepiece_tokenizer.bos_token_id) == 1

    tokenizer, (bos, eos) = byte_level_tokenizer, byte_level_tokenizer.all_special_tokens[:2]
    assert tokenizer.bos_token_id not in data_of(tokenizer, record)[0].input_ids
    for single, begins in ((f"{bos} $A", True), (f"$A {eos}", False), (f"{bos} $A {eos}", True)):
        adding = copy.deepcopy(tokenizer)
        adding.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, special_tokens=[(bos, adding.bos_token_id), (eos, adding.eos_token_id)]
        )
        example = data_of(adding, record)[0]
        assert (example.input_ids[0] == tokenizer.bos_token_id) == begins
        assert example.input_ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_stay_text(kind, request):
    """A user who spells the end-of-sequence token trained the model to end there."""
    tokenizer = request.getfixturevalue(kind)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    record = TrainingRecord(1, f"Does {eos} end?", bos, f"{eos} ends {bos} a text.", True)
    example = data_of(tokenizer, record)[0]
    begin = len(begin_ids(tokenizer))
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
    assert example.input_ids[begin:].count(tokenizer.bos_token_id) == 0
    text = tokenizer.decode(example.input_ids[begin:])
    assert f"Does {eos} end?\n\n{bos}\n\n### Dromedary\n{eos} ends {bos} a text.{eos}" in text


def test_a_tokenizer_without_an_end_is_refused(byte_level_tokenizer):
    endless = copy.deepcopy(byte_level_tokenizer)
    endless.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        data_of(endless, TrainingRecord(1, "Hi", "", "Yes.", True))


def test_a_reply_that_opens_with_a_heading_trains_nothing(sentencepiece_tokenizer):
    """An empty reply with its end was learned."""
    good = TrainingRecord(1, "Hi", "", "Yes.", True)
    headed = TrainingRecord(2, "Hi", "", "### User\nHo\n\n### Dromedary\nYes.", True)
    data = data_of(sentencepiece_tokenizer, good, headed)
    assert (data.counts.examples, data.counts.nothing_to_learn) == (1, 1)


def test_unfinished_reply_gets_no_marker(sentencepiece_tokenizer):
    """A model that learns the marker after a cut sentence learns to stop in the middle."""
    data = data_of(sentencepiece_tokenizer, TrainingRecord(1, "Hi", "", "I am not", False))
    assert sentencepiece_tokenizer.decode(data[0].input_ids).endswith("Dromedary\nI am not")
    assert data.counts.unfinished == 1


def test_long_prompt_loses_its_beginning_but_not_bos(sentencepiece_tokenizer):
    record = TrainingRecord(1, "rain " * 50, "", "Yes.", True)
    example = data_of(sentencepiece_tokenizer, record, source=20)[0]
    prompt = example.input_ids[:20]
    assert prompt[0] == sentencepiece_tokenizer.bos_token_id
    assert sentencepiece_tokenizer.decode(prompt[1:]).endswith("rain\n\n### Dromedary\n")
    assert example.labels[:20] == [IGNORED] * 20
    assert example.labels[20] != IGNORED


def test_reply_at_the_limit_keeps_its_marker_and_one_beyond_is_cut(sentencepiece_tokenizer):
    encoder = DialogueTokenizer(sentencepiece_tokenizer)
    reply = "Three times three is nine."
    length = len(encoder.encode_continuation(reply))
    record = TrainingRecord(1, "Hi", "", reply, True)
    kept = data_of(sentencepiece_tokenizer, record, target=length)
    cut = data_of(sentencepiece_tokenizer, record, target=length - 1)
    learned = [label for label in cut[0].labels if label != IGNORED]
    assert sentencepiece_tokenizer.decode(kept[0].input_ids).endswith("nine.</s>\n\n### User\n")
    assert learned == encoder.encode_continuation(reply)[: length - 1]
    assert (kept.counts.replies_cut, cut.counts.replies_cut) == (0, 1)


def test_nothing_to_learn_is_counted_and_left_out(sentencepiece_tokenizer):
    good, empty = TrainingRecord(1, "Hi", "", "Yes.", True), TrainingRecord(2, "Hi", "", " ", True)
    data = data_of(sentencepiece_tokenizer, good, empty)
    assert (data.counts.records, data.counts.examples, data.counts.nothing_to_learn) == (2, 1, 1)
    with pytest.raises(UserError, match="none of the 1 records"):
        data_of(sentencepiece_tokenizer, empty)


def test_meta_prompts_rotate_by_example_id(sentencepiece_tokenizer):
    metas = [MetaPrompt(name, name) for name in ("rain", "poem", "hump")]
    records = [TrainingRecord(number, "Hi", "", "Yes.", True) for number in (1, 2, 3, 4, 7)]
    data = data_of(sentencepiece_tokenizer, *records, metas=metas)
    starts = [sentencepiece_tokenizer.decode(example.input_ids[1:])[:4] for example in data]
    assert starts == ["poem", "hump", "rain", "poem", "poem"]


def test_packed_row_and_padded_batch_hold_the_same_targets():
    examples = [Example([1, 5, 6, 0], [IGNORED, IGNORED, 6, 0]), Example([1, 7], [IGNORED, 7])]
    packed, padded = packed_batch(examples), padded_batch(examples)
    assert packed["input_ids"].tolist() == [[1, 5, 6, 0, 1, 7]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert packed["segment_borders"].tolist() == [0, 4, 6]
    assert packed["logits_to_keep"].tolist() == [1, 2, 4]
    assert packed["targets"].tolist() == [6, 0, 7]
    assert padded["targets"].tolist() == [[-100, 6, 0, -100], [7, -100, -100, -100]]
    # id 0 at the end of the first row is a real token
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_empty_micro_batch_learns_nothing():
    batch = packed_batch([])
    assert batch["targets"].tolist() == [IGNORED]
    assert batch["segment_lengths"] == (1,)
    assert torch.equal(batch["segment_borders"], torch.tensor([0, 1], dtype=torch.int32))
