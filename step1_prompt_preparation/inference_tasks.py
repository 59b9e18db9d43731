"""How natural-language-inference tasks are told from others, as one RE2 pattern.

"Premise:" and "Hypothesis 2:" as labels, at the start of a line or behind a sentence; both words
with a colon anywhere; the answer option that only such tasks have.
"""

_LABEL = r"""(?:premise|hypothesis)[ \t]*\d*["'*\])>}]{0,3}[ \t]*:"""
INFERENCE_TASK = (
    rf"""(?is)(?:^|[\n.!?:;"'(\[{{<|*])[ \t]*{_LABEL}"""
    r"|premise[^\n:]{0,3}:.*hypothesis[^\n:]{0,3}:"
    r"|[\[<{](?:premise|hypothesis)[\]>}]"
    r"|it is not possible to tell"
)
