"""Tells whether a reply is in another language than its prompt, as far as the script shows it."""

import re
import unicodedata
from collections import Counter

from repetition import CODE_FENCE
from unfinished_text import CJK_WEIGHT

MAIN_SHARE = 0.5  # of a text's letters that are in its main script
MAX_SHARE_IN_PROMPT = 0.3  # of the reply's script; from there on the prompt is a mixed one
MIN_LETTERS = 10  # fewer, outside code, may be a name or a formula
# A letter's script is the first word of its Unicode name, apart from these
SCRIPTS = {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana",
    "FULLWIDTH": "Latin",
    "MICRO": "Latin",
}

# Words of a prompt that asks for another language, or for something that everybody writes in Latin
# letters. Wide on purpose: a wrong language that stays costs less than a right one that goes.
ASKS_FOR_IT = re.compile(
    r"transl|language|transcri|transliterat|script|alphabet|romani[sz]|pinyin|romaji|katakana|"
    r"hiragana|kanji|hanzi|hangul|cyrillic|devanagari|unicode|emoji|"
    r"\b(?:arabic|armenian|bengali|bulgarian|cantonese|chinese|english|farsi|french|georgian|"
    r"german|greek|gujarati|hebrew|hindi|japanese|korean|mandarin|marathi|nepali|persian|punjabi|"
    r"russian|sanskrit|serbian|spanish|tamil|telugu|thai|ukrainian|urdu)\b|"
    r"traduc|traduis|übersetz|tradu[zç]|auf (?:chinesisch|japanisch|russisch)|"
    r"翻译|翻譯|译成|譯成|英文|英语|英語|中文|汉语|日语|韩语|法语|俄语|代码|程式|程序|函数|拼音|"
    r"翻訳|日本語|中国語|韓国語|コード|プログラム|関数|ローマ字|번역|영어|한국어|코드|프로그램|함수|"
    r"перевод|перевед|перевест|английск|русск|латини|код|программ|функци|ترجم|الإنجليزية|العربية|"
    r"كود|برنامج|अनुवाद|अंग्रेज|हिंदी|कोड|מתרגם|תרגם|באנגלית|קוד|แปล|ภาษา|โค้ด|μετάφρα|αγγλικά|κώδικα",
    re.IGNORECASE,
)


def find_other_script(prompt: str, reply: str) -> str | None:
    """The two main scripts if the reply's differs from the prompt's and wasn't asked for."""
    if prompt.isascii() and reply.isascii():
        return None
    prompt_shares = script_shares(prompt)
    reply_script = _main_script(CODE_FENCE.sub("", reply))
    prompt_script, prompt_share = (prompt_shares.most_common(1) or [("", 0.0)])[0]
    differs = (
        reply_script is not None
        and prompt_share >= MAIN_SHARE
        and prompt_script != reply_script
        and prompt_shares[reply_script] < MAX_SHARE_IN_PROMPT
        and not ASKS_FOR_IT.search(prompt)
    )
    return f"{prompt_script} prompt, {reply_script} reply" if differs else None


def script_shares(text: str) -> Counter[str]:
    """How much of the text's letters is in each script, from 0 to 1; empty without letters.

    A CJK character weighs as much as three letters. Japanese mixes Kana and Han: where Kana is a
    tenth of the two or more, all of it counts as Kana.
    """
    weights: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            script = _script_of(character)
            weights[script] += count * (CJK_WEIGHT if script in ("Han", "Kana", "Hangul") else 1)
    if weights["Kana"] * 9 >= weights["Han"]:
        weights["Kana"] += weights.pop("Han", 0)
    total = weights.total()
    return Counter({script: weight / total for script, weight in weights.items() if weight})


def _script_of(letter: str) -> str:
    name = unicodedata.name(letter, "OTHER").split()[0]
    return SCRIPTS.get(name) or name.capitalize()


def _main_script(text: str) -> str | None:
    """The script of half the letters or more; None where there are too few of them to tell."""
    if sum(map(str.isalpha, text[:1000])) < MIN_LETTERS:
        return None
    script, share = script_shares(text).most_common(1)[0]
    return script if share >= MAIN_SHARE else None
