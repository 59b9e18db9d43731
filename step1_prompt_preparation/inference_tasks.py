"""How natural-language-inference tasks are told from others, by RE2 patterns.

The published recipe leaves these tasks out. They are told by what their templates ask for, in the
collections' own wording and near it: whether one text follows from another, or answers a question,
with the statement in quotation marks, behind "the following" or with the answer options behind it.
A premise or a hypothesis alone, or a "can we conclude" that wants an explanation, is none.
"""

# ruff: noqa: E501 - a pattern that is cut in two is harder to read

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

QUOTE = r"""["“”'‘’]"""
STATEMENT = rf"{QUOTE}[^\n]{{1,40}}? [^\n]{{1,60}}? [^\n]{{1,400}}?{QUOTE}"  # three words or more
MARKS = r"""["'*\])>}]{0,3}"""  # that may stand between a label's word and its colon
PREMISE, HYPOTHESIS = (
    rf"(?:^|[\n.!?:;({{<|*\[ ]){word}[ \t]*\d*{MARKS}[ \t]*:" for word in ("premise", "hypothesis")
)
UNDECIDED = (
    r"it(?:'s|’s| is| ?isn't| ?isn’t) (?:impossible|not possible|possible) to (?:say|tell|know)"
)
PAIR = r"\b(?:the|this|that|your|next|first|second|following|given|sentence [12ab])\b"
THIRD_OPTION = (
    r"(?:maybe|neither|neutral|inconclusive|unknown|undetermined|not sure|can'?t tell|unclear)"
)
TRIPLE = (
    rf"(?:yes,? (?:or )?no,? or {THIRD_OPTION}|true,? (?:or )?false,? or {THIRD_OPTION}"
    rf"|(?:in)?correct,? (?:in)?correct,? or {THIRD_OPTION}"
    r"|(?:always|guaranteed|certainly|definitely)[^\n.?]{0,15}, (?:sometimes|possibl[ey]|maybe)[^\n.?]{0,15},? or "
    r"(?:never|impossible|not)|(?:yes|no|true|false)\s*/\s*(?:yes|no|true|false)\s*/\s*\w+)"
)
OPTIONS = r"(?:options|choices|choose (?:one|from|between)|pick|select|answer)\b[^\n]{0,40}:?\s*[^\w\n]*\s*(?:\(?[a-c1-3]\)?[.)]?\s*)?(?:yes|no|true|false)\b"
CONCLUDE = (
    r"\b(?:(?:can|could|may|should|do|must) (?:we|one|you|i) (?:now |safely |therefore |then )?(?:conclude|infer"
    r"|deduce|say|assume|draw|derive|claim)"
    r"|(?:does|would|must) (?:it|this|that|which) (?:logically |necessarily |also )?(?:follow|mean|imply)"
    r"|is it (?:then |therefore |necessarily |guaranteed |possible )*(?:true|to be true|correct|to (?:draw"
    r"|conclude|infer))|are we (?:justified|right|allowed)|it must be (?:true|the case))"
)

# Patterns by a word that each of them needs: only texts that have it are searched
PARTS = {
    r"premise|hypothesis": (
        rf"{PREMISE}.*{HYPOTHESIS}",
        rf"{HYPOTHESIS}.*{PREMISE}",
        r"[\[<{](?:premise|hypothesis)[\]>}]",
        # both words, and what the task is about
        r"\bpremise\b.*\bhypothesis\b.*\b(?:true|follow|conclude|infer|support|entail|correct)",
        r"\b(?:true|follow\w*|conclude|infer|support\w*|correct|draw)\b[^\n]*\bhypothesis\b[^\n]*\b(?:from|given|based"
        r"|context|text|paragraph|passage|premise)",
    ),
    r"possible to (?:say|tell|know)": (
        # the answer options that only such tasks have: on a line of their own, or beside yes and no
        rf"(?:^|\n)[^\w\n]*(?:\(?[a-c1-3][.)] ?)?{UNDECIDED}[^\w\n]*(?:\n|$)",
        rf"\b(?:yes|no)\b\W{{1,8}}{UNDECIDED}|{UNDECIDED}\W{{1,8}}(?:or )?\b(?:yes|no)\b",
    ),
    r"entail": (
        r"\bentail(?:s|ed|ment|ing)?\b.{0,300}\b(?:contradict|neutral)|\b(?:contradict\w*|neutral)\b.{0,300}\bentail",
        rf"\bentail(?:s|ed)?\b[^\n.]{{0,12}}(?:{QUOTE}|{PAIR}[^\n.]{{0,12}}(?:sentence|statement|text|premise|one\b))",
        rf"(?:{QUOTE}|sentence|statement|premise)[^\n.]{{0,12}} entails? ",
    ),
    CONCLUDE: (
        # a conclusion, with the statement marked or the answers given
        rf"{CONCLUDE}[^\n.?]{{0,40}}?{STATEMENT}",
        rf"{CONCLUDE}[^\n?]{{0,60}}(?:the following|this sentence|the sentence below|that sentence|next sentence)",
        rf"{CONCLUDE}.{{0,500}}(?:{TRIPLE}|{OPTIONS})",
        rf"(?:{OPTIONS}).{{0,300}}{CONCLUDE}",
    ),
    r"true|false|correct|valid|accurate|guaranteed|supported|implied|entailed|right|possible": (
        r"(?:determine|decide|say|tell|judge|check|state)[^\n.]{0,30} (?:if|whether) the (?:hypothesis|sentence|statement"
        r"|claim|conclusion)[^\n.]{0,40} (?:is|are|was) (?:\w+ )?(?:true|supported|implied|entailed|right|correct)"
        r"[^\n.]{0,60}(?:[:.]|$|based|given|according|\n)[^\n]*\n",
        rf"\bis (?:the )?(?:claim|statement|conclusion)\b.{{0,500}}{TRIPLE}",
        rf"\bis {STATEMENT} (?:then |also |necessarily )?(?:true|correct|right|a (?:true|valid|correct))\b",
        rf"\bis the (?:sentence|statement|claim)[:,]? {STATEMENT}[^\n]{{0,12}}(?:true|false|correct|valid)",
        rf"\w\W?{QUOTE} (?:\w+ ){{0,5}}(?:accurate|true|correct|valid) (?:\w+ ){{0,3}}(?:based on|given|if|according)\b",
        rf"\w\W?{QUOTE} is (?:\w+ )?(?:true|correct|guaranteed),",
        r"is (?:the )?(?:sentence (?:2|b|two)|second sentence)[^\n?]{0,20} (?:true|false|implied|supported|correct)",
        rf"[?.\"”]\s*true,? (?:or )?false,? or {THIRD_OPTION}",
        r"\b(?:certain|guaranteed|possible|impossible|always|sometimes|never), (?:certain|guaranteed|possible|impossible"
        r"|always|sometimes|never),? or (?:certain|guaranteed|possible|impossible|always|sometimes|never)\b[^\n]{0,12}"
        r"(?:that|true|correct|\?)",
        r"\b(?:first|second) (?:sentence|statement|one)[^\n.?]{0,10} must be true",
    ),
    r"follow|hold|deduced|inferred|concluded|implied|supported": (
        r"(?:does|do|would) (?:the|this)(?: \w+)? (?:next |second |following |last |other )?(?:sentence|statement|text)"
        r"[^\n?]{0,30} (?:follow|hold)",
        rf"(?:{QUOTE}|\b(?:sentence|statement|line|claim|text|hypothesis)\b)[^\n.?]{{0,15}} (?:logically |necessarily )?"
        r"follows? from",
        rf"\b(?:deduced|inferred|concluded|implied|entailed|supported)\b[^\n.?]{{0,15}}\b(?:by|from)\b[^\n.?]{{0,15}}"
        rf"(?:{QUOTE}|\b(?:sentence|statement|passage|text|paragraph|context|premise|first|above)\b)",
        rf"\b(?:can|could|may) (?:this|it|the following) (?:be )?(?:deduced|inferred|concluded|entailed)\b.{{0,300}}"
        rf"(?:{TRIPLE}|\?\s*\z)",
    ),
    r"answer": (
        # whether a sentence answers a question
        r"does this (?:sentence|text|passage) answer (?:it|the question|this question)",
        rf"(?:does|do|is) (?:the )?(?:sentence |answer |text |passage )?[:,]?{STATEMENT}[^\n?]{{0,30}}answer",
    ),
    r"answer[^\n.?]*question|question answered": (
        rf"(?:answer|answers|answered)[^\n?]{{0,20}}question(?: of)?:? ?{STATEMENT}[^\n]{{0,5}}(?:\n|$)[^\n]*(?:yes|no)",
        r"(?:does|is|can)[^\n.?]{0,30}(?:sentence|passage|text|answer)[^\n.?]{0,60}(?:\banswer|contain the (?:correct )?answer)"
        r"[^\n.?]{0,20}(?:the|this|that|above|given) (?:\w+ )?question",
        r"is the (?:above )?question answered[^\n.]{0,40}\?",
    ),
    r"if |following|passage|description": (
        rf"\bif {STATEMENT},? (?:then )?(?:is|does|can|must|would|do)\b",
        r"take the following as (?:the )?truth|keeping in mind the (?:above|following) (?:text|passage)"
        r"|using only the (?:above|following|previous) (?:description|passage|text)",
    ),
}
# one of these words is in all such tasks: what has none is passed by at once
SIGNS = (
    r"(?i)premise|hypothesis|entail|contradict|possible to|infer|conclu|deduc|impl(?:y|ie)|justified"
    r"|guaranteed|inconclusive|neither|or maybe|draw |follows? from|(?:it|this|that|sentence) (?:\w+ )?follow"
    r"|(?:it|this|that|which) (?:\w+ )?mean|(?:can|could|may|should) we (?:\w+ )?(?:say|assume|claim)|true (?:if|based|sentence|given|that)"
    r"|(?:is|are|be|statement) true|true,? (?:or )?false,? or"
    r"|(?:definitely|is|in)correct|(?:is|definitely) correct|correct\?|accurate (?:statement|if|based)|correctly answer"
    r"|(?:good|valid|correct|satisfactory) (?:answer|fashion)|sentence[^\n.?]{0,100} answer|(?:is|does) \W[^\n]+answer"
    r"|answered in|sentence (?:2|b|two)|, or (?:never|not|impossible)|following as|above text"
    r"|using only the|is the claim|follows logically"
)


def is_inference_task(questions: pa.Array) -> np.ndarray:
    """Which questions are natural-language-inference tasks: [questions] bool; not a missing one."""
    likely = _matches(questions, SIGNS)
    rows = np.flatnonzero(likely)
    few = questions.take(pa.array(rows))
    found = np.zeros(len(rows), dtype=bool)
    for sign, parts in PARTS.items():
        signed = np.flatnonzero(_matches(few, f"(?is){sign}"))
        texts = few.take(pa.array(signed))
        for part in parts:  # one by one: together they are ten times slower
            found[signed] |= _matches(texts, f"(?is){part}")
    likely[rows] = found
    return likely


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    found = pc.match_substring_regex(texts, pattern).fill_null(False)
    return found.to_numpy(zero_copy_only=False).copy()
