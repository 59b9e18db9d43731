"""What a prompt asks for, without the words that carry no weight.

Two prompts that ask for the same thing in the same words, apart from politeness, wrapping, filler
words, the order of sentences and the way numbers are written, have the same content words. Two
that differ in one name, number or other word of weight have not, however much they share.
"""

import re

from normalized_text import normalized

Sentence = tuple[str, ...]
Contents = tuple[Sentence, ...]
# Words of their own between the others; cleaning takes such characters out of texts.
SENTENCE_BREAK, CLAUSE_BREAK = "\x01", "\x02"


def _words(text: str) -> set[str]:
    return set(text.split())


# carry no weight anywhere
FILLERS = {CLAUSE_BREAK} | _words(
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
WEIGHTLESS = CHATTER | QUESTION_WORDS  # a prompt of these alone is compared whole
SAME_WORD = {
    **{f"{word}s": word for word in ("what", "who", "how", "where", "when", "why", "there")},
    **dict.fromkeys(("thats", "lets", "heres"), "it"),
    **dict.fromkeys(("im", "ive"), "i"),
    **dict.fromkeys(("youre", "youve"), "you"),
    **dict.fromkeys(
        ("dont", "doesnt", "isnt", "arent", "cant", "cannot", "wont", "couldnt"), "not"
    ),
    "first": "1st",
    "second": "2nd",
    "third": "3rd",
    "fourth": "4th",
    "fifth": "5th",
}
SMALL_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
]
TENS_IN_ORDER = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TENS = {word: 10 * number for number, word in enumerate(TENS_IN_ORDER, 2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
NUMBERS = {word: number for number, word in enumerate(SMALL_NUMBERS)} | TENS | SCALES
REWRITTEN = SAME_WORD.keys() | NUMBERS.keys()
SENTENCE_END = re.compile(r"""[.!?…。！？]+(?=["'”’)\]*_]*(?:\s|\Z))|\n+""")
CLAUSE_END = re.compile(r"[,;:—–](?=\s)|\s-+(?=\s)")
ESCAPE = re.compile(r"\\(?=[_*])")
SPELLING = re.compile(r"[*_]|\d,\d|ty-")  # what asks for a plainer spelling
EMPHASIS = re.compile(r"(?<!\w)[.,:]*[*_]+[.,:]*|[.,:]*[*_]+[.,:]*(?!\w)")
GROUPED_DIGITS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
HYPHENATED_NUMBER = re.compile(rf"\b({'|'.join(TENS)})-(?={'|'.join(SMALL_NUMBERS[1:10])})")
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
    plain = normalized(marked)
    if SPELLING.search(plain):
        plain = _spelt_plainly(plain)
    sentences = [words for part in plain.split(SENTENCE_BREAK) if (words := part.split())]
    if not REWRITTEN.isdisjoint(plain.split()):
        sentences = list(map(_rewritten, sentences))
    contents = sorted(filter(None, map(_weighty, _task(sentences))))
    for words in contents:
        for word in words:
            if word not in WEIGHTLESS and not word.isdigit():
                return tuple(contents)
    return (tuple(word for words in sentences for word in words if word != CLAUSE_BREAK),)


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


def _task(sentences: list[list[str]]) -> list[list[str]]:
    """The sentences, without the chatter before the first and behind the last."""
    first, last = 0, len(sentences)
    while last - first > 1 and _is_chatter(sentences[last - 1]):
        last -= 1
    while last - first > 1 and _is_chatter(sentences[first]):
        first += 1
    task = sentences[first:last]
    if task:
        task[0] = _without_chatter(task[0], 0)
        task[-1] = _without_chatter(task[-1], -1)
    return task


def _without_chatter(sentence: list[str], end: int) -> list[str]:
    """The sentence without the clauses of chatter at its beginning (0) or end (-1)."""
    if CLAUSE_BREAK not in sentence:
        return sentence
    text = " ".join(sentence)
    clauses = [clause.split() for clause in text.split(CLAUSE_BREAK)]
    while len(clauses) > 1 and _is_chatter(clauses[end]):
        clauses.pop(end)
    return f" {CLAUSE_BREAK} ".join(map(" ".join, clauses)).split()


def _is_chatter(words: list[str]) -> bool:
    """A greeting, thanks, or a few words of no weight; one such word alone may be an answer."""
    return OPENERS.issuperset(words) or (len(words) >= LEAST_CHATTER and CHATTER.issuperset(words))


def _weighty(sentence: list[str]) -> Sentence:
    """The sentence without its opening, tail and fillers."""
    start, end = 0, len(sentence)
    while start < end and sentence[start] in OPENERS:
        start += 1
    while start < end and sentence[end - 1] in TAIL:
        end -= 1
    return tuple([word for word in sentence[start:end] if word not in FILLERS])


def _spelt_plainly(text: str) -> str:
    """Normalised text without marks of emphasis, hyphens in numbers and groups of digits."""
    text = EMPHASIS.sub("", text)
    text = GROUPED_DIGITS.sub("", text)
    return HYPHENATED_NUMBER.sub(r"\1 ", text)


def _rewritten(words: list[str]) -> list[str]:
    """The words with numbers as digits and contractions undone."""
    plain: list[str] = []
    for word in words:
        if word not in REWRITTEN:
            plain.append(word)
        elif word in SAME_WORD:
            plain.append(SAME_WORD[word])
        else:
            _append_number(plain, word)
    return plain


def _append_number(plain: list[str], word: str) -> None:
    """Adds a number, or makes it one with the number before: "twenty" "five", "3" "hundred"."""
    number = NUMBERS[word]
    before = int(plain[-1]) if plain and plain[-1].isdecimal() and len(plain[-1]) < 10 else None
    if before is not None and word in SCALES:
        plain[-1] = str(before * number)
    elif before in TENS.values() and 0 < number < 10:
        plain[-1] = str(before + number)
    else:
        plain.append(str(number))
