"""What a prompt asks for, without the words that carry no weight.

Two prompts that ask for the same thing in the same words, apart from politeness, wrapping, filler
words, the order of sentences and the way numbers are written, have the same content words. Two
that differ in one name, number or other word of weight have not, however much they share.
"""

import re
from collections.abc import Iterator

from normalized_text import WITHIN_WORDS, normalized

Sentence = tuple[str, ...]
Contents = tuple[Sentence, ...]
SENTENCE_BREAK, CLAUSE_BREAK = "\x01", "\x02"  # cleaning takes such characters out of texts


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# carry no weight anywhere
FILLERS = _words(
    "a an the this that these those some please kindly pls plz just really very so quite actually "
    "basically simply truly also then there it of is are am be do does has have can could will "
    "would shall perhaps maybe"
)
# carry none where a sentence opens with them: "could you help me and tell me …"
OPENERS = FILLERS | _words(
    "i me my we us you your hi hiya hello hey yo howdy dear greetings ok okay well sir madam "
    "friend assistant ai bot chatbot chatgpt gpt user human thanks thank thx cheers regards "
    "help helping assist assistance need needs want wants wanted like love know find out figure "
    "understand hear wonder wondering curious interested trying looking ask asks asked asking "
    "question questions query request task instruction instructions prompt following id below "
    "here now tell telling give giving show showing provide share answer answering respond "
    "reply let if able possible mind kind pretty enough moment may might should about for to "
    "with at in on and as but quick quickly favor favour sorry excuse bother got ive im goes - "
    "* • >"
)
# carry none where they make a whole clause around the task: "I hope you are well today"
CHATTER = OPENERS | _words(
    "he she they them our 1 any something anything someone somebody everyone lot lots much many "
    "more bit little time times day days today tomorrow week weeks month morning afternoon evening "
    "night good great nice fine glad happy fantastic lovely wonderful amazing awesome helpful "
    "useful best better ability expert knowledge experience wisdom hope hoping doing feel feeling "
    "take taking took mean means meant appreciate appreciated grateful obliged advance welcome way "
    "sure ready careful carefully attention read reading work working project homework assignment "
    "class school course teacher boss colleague told telling say says said said wrote friends "
    "mother father sister brother wife husband son daughter child family person client customer "
    "gave was were been had did get getting stuck trouble hard difficult easy simple come came "
    "across up while lately recently think thinking thought thoughts opinion view input feedback "
    "see seen look make makes made try again all always ever every problem issue advice guidance "
    "support insight response answers own curiosity urgent important asap forward long from over "
    "since still thing things after before by or not no too sense go going ahead 1st real honest "
    "right away soon yours patience patient pleasure luck worry worries what how deep breath its "
    "start started begin fun test exercise challenge next another which who when where bye have"
)
LEAST_CHATTER = 2  # words
TAIL = _words("please kindly pls plz thanks thank you for me")
QUESTION_WORDS = _words("what which who whom whose when where why how not")
SAME_WORD = {
    **{f"{word}s": word for word in ("what", "who", "how", "where", "when", "why", "there")},
    **dict.fromkeys(("thats", "lets", "heres"), "it"),
    **dict.fromkeys(("im", "ive"), "i"),
    **dict.fromkeys(("youre", "youve"), "you"),
    **dict.fromkeys(
        ("dont", "doesnt", "isnt", "arent", "cant", "cannot", "wont", "couldnt"), "not"
    ),
    **dict.fromkeys(("pls", "plz"), "please"),
}
SMALL_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
]
TENS_IN_ORDER = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TENS = {word: 10 * number for number, word in enumerate(TENS_IN_ORDER, 2)}
NUMBERS = {word: number for number, word in enumerate(SMALL_NUMBERS)} | TENS
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
ORDINALS = {"first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th", "fifth": "5th"}
SENTENCE_END = re.compile(r"""[.!?…。！？]+(?=["'”’)\]*_]*(?:\s|\Z))|\n+""")
CLAUSE_END = re.compile(r"[,;:—–](?=\s)|\s-+(?=\s)")
ESCAPE = re.compile(r"\\(?=[_*])")
EMPHASIS = "*_"
GROUPED_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+")
QUOTED = re.compile(
    r""""([^"\n]+)"|“([^”\n]+)”|«([^»\n]+)»|`([^`\n]+)`|\[([^\]\n]+)\]|(?<!\w)'([^'\n]+)'(?!\w)"""
)
LABELLED = re.compile(r"\n[ \t]*\w+(?: \w+){0,2}[ \t]*:[ \t]*(.+)")


def content_words(text: str) -> Contents:
    """The words of weight, sentence by sentence, the sentences in the order of the alphabet.

    If none is left but question words and numbers, the text's whole words as one sentence:
    "What can you do?" and "What are you?" are two prompts.
    """
    marked = ESCAPE.sub("", text) if "\\" in text else text
    marked = SENTENCE_END.sub(f" {SENTENCE_BREAK} ", marked)
    marked = CLAUSE_END.sub(f" {CLAUSE_BREAK} ", marked)
    words = _plain_words(normalized(marked).split())
    sentences = sorted(filter(None, map(_weighty, _task(words))))
    for sentence in sentences:
        for word in sentence:
            if word not in CHATTER and word not in QUESTION_WORDS and not word.isdigit():
                return tuple(sentences)
    return (tuple(word for word in words if word not in (SENTENCE_BREAK, CLAUSE_BREAK)),)


def same_material(first: str, second: str) -> bool:
    """Whether two texts of the same content words also quote and label the same.

    In quotation marks, brackets and behind a label ("Input: Thank you!") every word has weight.
    Where one of the texts marks nothing, nothing speaks against it.
    """
    materials = (_material(first), _material(second))
    return not all(materials) or materials[0] == materials[1]


def _material(text: str) -> list[str]:
    quoted = (next(filter(None, match.groups())) for match in QUOTED.finditer(text))
    labelled = (match[1] for match in LABELLED.finditer(text))
    return sorted(map(normalized, (*quoted, *labelled)))


def _task(words: list[str]) -> list[list[str]]:
    """The sentences, without the chatter before the first and behind the last."""
    sentences = [sentence for sentence in _split(words, SENTENCE_BREAK) if sentence]
    while len(sentences) > 1 and _is_chatter(sentences[-1]):
        sentences.pop()
    while len(sentences) > 1 and _is_chatter(sentences[0]):
        sentences.pop(0)
    if sentences:
        first = list(_split(sentences[0], CLAUSE_BREAK))
        while len(first) > 1 and _is_chatter(first[0]):
            first.pop(0)
        sentences[0] = [word for clause in first for word in (*clause, CLAUSE_BREAK)]
        last = list(_split(sentences[-1], CLAUSE_BREAK))
        while len(last) > 1 and _is_chatter(last[-1]):
            last.pop()
        sentences[-1] = [word for clause in last for word in clause]
    return sentences


def _is_chatter(clause: list[str]) -> bool:
    """A greeting, thanks, or a few words of no weight; one such word alone may be an answer."""
    words = [word for word in clause if word != CLAUSE_BREAK]
    return OPENERS.issuperset(words) or (len(words) >= LEAST_CHATTER and CHATTER.issuperset(words))


def _weighty(sentence: list[str]) -> Sentence:
    """The sentence without its opening, tail and fillers."""
    words = [word for word in sentence if word != CLAUSE_BREAK]
    start, end = 0, len(words)
    while start < end and words[start] in OPENERS:
        start += 1
    while start < end and words[end - 1] in TAIL:
        end -= 1
    return tuple(word for word in words[start:end] if word not in FILLERS)


def _split(words: list[str], mark: str) -> Iterator[list[str]]:
    start = 0
    for _ in range(words.count(mark)):
        end = words.index(mark, start)
        yield words[start:end]
        start = end + 1
    yield words[start:]


def _plain_words(words: list[str]) -> list[str]:
    """The words with numbers as digits and contractions undone."""
    plain: list[str] = []
    for word in words:
        if word[-1] in EMPHASIS or word[0] in EMPHASIS:
            word = word.strip(EMPHASIS).strip(WITHIN_WORDS) or word
        if word in SAME_WORD:
            plain.append(SAME_WORD[word])
        elif word in ORDINALS:
            plain.append(ORDINALS[word])
        elif (number := _number(word)) is not None:
            _append_number(plain, word, number)
        else:
            plain.append(word.replace(",", "") if GROUPED_DIGITS.fullmatch(word) else word)
    return plain


def _number(word: str) -> int | None:
    if word in NUMBERS:
        return NUMBERS[word]
    if word in SCALES:
        return SCALES[word]
    tens, hyphen, ones = word.partition("-")
    if hyphen and tens in TENS and ones in NUMBERS:
        return TENS[tens] + NUMBERS[ones]
    return None


def _append_number(plain: list[str], word: str, number: int) -> None:
    """Adds a number, or makes it one with the number before: "twenty" "five", "3" "hundred"."""
    before = int(plain[-1]) if plain and plain[-1].isdecimal() and len(plain[-1]) < 10 else None
    if before is not None and word in SCALES:
        plain[-1] = str(before * number)
    elif before in TENS.values() and 0 < number < 10:
        plain[-1] = str(before + number)
    else:
        plain.append(str(number))
