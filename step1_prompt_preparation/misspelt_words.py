"""Prompts that are another one but for one misspelt word."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from content_words import Contents, same_material

LEAST_LETTERS = 5  # of a word that may be misspelt: "cat" and "car" are two words
LEAST_WORDS = 4  # of a prompt in which one may be
BEFORE_A_SENTENCE = '.!?:\n"“('


def find_misspelt(contents: dict[int, Contents], texts: Sequence[str]) -> dict[int, int]:
    """Maps the index of each text with a misspelt word to that of the text it means.

    A word may be misspelt if no other text has it; another one's word, that begins with the same
    letter and becomes the same where one letter of each is left out, is what it means. (A letter
    too much, one too few, another one, or one in another place: the deletions of Mor and Fraenkel
    1982, A hash code method for detecting and correcting spelling errors.) Names and numbers are
    never taken for misspelt.

    Args:
        contents: of the texts to compare, by index; no two are the same.
    """
    index_of = {content: index for index, content in contents.items()}
    frequencies: Counter[str] = Counter()
    for content in contents.values():
        frequencies.update({word for sentence in content for word in sentence})
    meanings = _similar_words(frequencies)
    stands_for: dict[int, int] = {}
    for index, content in contents.items():
        if sum(map(len, content)) < LEAST_WORDS:
            continue
        rare = (word for sentence in content for word in sentence if word in meanings)
        for word, meant in [(w, meant) for w in rare for meant in meanings[w]]:
            other = index_of.get(_with_word(content, word, meant))
            if other is None or other in stands_for:
                continue
            if frequencies[meant] == 1 and other > index:
                continue  # two words that occur once: the later text goes
            if not _are_names(word, texts[index], meant, texts[other]) and same_material(
                texts[index].replace(word, meant), texts[other]
            ):
                stands_for[index] = other
                break
    return stands_for


def _similar_words(frequencies: Counter[str]) -> dict[str, list[str]]:
    """For each word that occurs once, the words that it may mean."""
    by_letter: dict[str, list[str]] = defaultdict(list)
    for word in frequencies:
        if len(word) >= LEAST_LETTERS and word.isalpha():
            by_letter[word[0]].append(word)
    similar: dict[str, list[str]] = {}
    for words in by_letter.values():
        shortened: dict[str, list[str]] = defaultdict(list)
        for word in words:
            for form in _shortened_forms(word):
                shortened[form].append(word)
        for word in words:
            if frequencies[word] == 1:
                near = {other for form in _shortened_forms(word) for other in shortened[form]}
                if len(near) > 1:
                    similar[word] = sorted(near - {word})
    return similar


def _shortened_forms(word: str) -> Iterator[str]:
    """The word, and the word without any one of its letters but the first."""
    yield word
    for place in range(1, len(word)):
        yield word[:place] + word[place + 1 :]


def _with_word(content: Contents, word: str, meant: str) -> Contents:
    return tuple(sorted(tuple(meant if w == word else w for w in sentence) for sentence in content))


def _are_names(word: str, text: str, other_word: str, other_text: str) -> bool:
    return _is_name(word, text) or _is_name(other_word, other_text)


def _is_name(word: str, text: str) -> bool:
    """Whether the word is capitalised inside a sentence."""
    before, found, _ = text.partition(word.capitalize())
    return bool(found) and not (before.strip() or ".").endswith(tuple(BEFORE_A_SENTENCE))
