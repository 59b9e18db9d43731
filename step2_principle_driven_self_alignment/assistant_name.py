"""Puts the assistant's real name where a reply speaks of it under its codename, Watson.

Other Watsons keep their name. A reply is about another one if its prompt says "Watson", if either
speaks of Holmes, Crick, IBM or Jeopardy, or if the reply has "Watson" next to another name ("Dr.
Watson", "Emma Watson", "Watson Street", "Watson and Crick"). In such a reply only
self-introductions ("I am Watson") get the real name; in all others every "Watson" does.
"""

import re

from response_turns import CODENAME

LATIN = "A-Za-z0-9_À-ÖØ-öø-ɏ"
MENTION = re.compile(rf"(?<![{LATIN}@/.-]){CODENAME}(?![{LATIN}@/]|\.[{LATIN}])")
ANOTHER_SUBJECT = re.compile(r"\b(?:Holmes|Sherlock|Crick|IBM|Jeopardy)\b")
INTRODUCTION = re.compile(
    r"(?:\bI am|\bI['’]m|\b[Mm]y name is|\b[Cc]all me|\b[Ii]ch bin|\b[Ii]ch heiße|\b[Jj]e suis|"
    r"\b[Jj]e m['’]appelle|\b[Ss]oy|\b[Mm]e llamo|\b[Ss]ono|\b[Mm]i chiamo|\b[Ss]ou|我是|我叫|私は|"
    r"저는|[Яя]|зовут)[\s*_\"'“«—-]*\Z"
)
TITLED_BEFORE = re.compile(r"(?:\b([A-Z][\w'’-]*)|\b[A-Z]\.|\b(?:Dr|Mr|Mrs|Ms|Prof|St)\.)[ \xa0]\Z")
JOINED_BEFORE = re.compile(r"\b[A-Z][\w'’-]+(?: (?:and|&) |[-–/&])\Z")
NAME_BEHIND = re.compile(r"(?: (?:and|&) | |[-–/&])[A-Z][a-z]")
# Capitalised because they open a sentence, not because they are part of a name
OPENERS = """
A Also Although An And Any As Ask At Both But By Call Can Could Dear Did Do Does For From Good
Has Hello Hence Here Hey Hi How However I I'm I’m If In Is It Its Just Let Like Meet My No Nor
Note Now Of On Only Or Our Perhaps Please Remember Since So Sorry Still Thank Thanks That The
Then Therefore This Though Through Thus To Unlike Use Using Was What When Where Which While Who
Why Will With Would Yes Yet You Your
"""


def name_assistant(reply: str, prompt: str, name: str) -> str:
    """The reply with the assistant's name instead of the codename, as the module says."""
    if CODENAME not in reply:
        return reply
    if not _is_about_another(reply, prompt):
        return MENTION.sub(lambda _: name, reply)
    return MENTION.sub(
        lambda mention: name if _introduces(reply, mention) else mention[0],
        reply,
    )


def _is_about_another(reply: str, prompt: str) -> bool:
    if MENTION.search(prompt) or ANOTHER_SUBJECT.search(prompt) or ANOTHER_SUBJECT.search(reply):
        return True
    return any(
        _stands_by_a_name(reply, mention) and not _introduces(reply, mention)
        for mention in MENTION.finditer(reply)
    )


def _introduces(reply: str, mention: re.Match[str]) -> bool:
    return bool(INTRODUCTION.search(reply[max(mention.start() - 40, 0) : mention.start()]))


def _stands_by_a_name(reply: str, mention: re.Match[str]) -> bool:
    before = reply[max(mention.start() - 40, 0) : mention.start()]
    titled = TITLED_BEFORE.search(before)
    return bool(
        (titled and titled[1] not in OPENERS.split())
        or JOINED_BEFORE.search(before)
        or NAME_BEHIND.match(reply, mention.end())
    )
