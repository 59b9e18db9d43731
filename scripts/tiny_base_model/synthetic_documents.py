"""Plain documents without a question and its answer, for the text that a base model has read.

An article is about one topic and ends with the end-of-sequence token. A page has sections under the
headings `### User` and `### Dromedary`, each about something else, and breaks off. So the headings
and the end are known to the model, while nothing tells it to answer under a heading or to stop.
"""

from dataclasses import dataclass
from pathlib import Path

from synthetic_conversations import ConversationMaker

PROMPTS = Path(__file__).resolve().parent.parent.parent / "prompts"
USER_HEADING = "### User\n"
ASSISTANT_HEADING = "\n\n### Dromedary\n"
ARTICLE_SHARE = 0.3
HEADED_SHARE = 0.5  # of the pages: those that an introduction of the assistant stands above
QUESTION_SHARE = 0.8  # of what stands under `### User`; the rest is prose


@dataclass(frozen=True)
class Document:
    """Stretches of text, each with whether the model learns to write it."""

    parts: tuple[tuple[str, bool], ...]
    ends: bool  # whether the end-of-sequence token follows


class DocumentMaker:
    """Makes documents from the same grammars and topics as the conversations."""

    def __init__(self, maker: ConversationMaker) -> None:
        self.maker = maker
        self.rng = maker.rng
        paths = sorted((PROMPTS / "inference_prompts").glob("*_distill.txt"))
        self.introductions = [path.read_text(encoding="utf-8") for path in paths]

    def document(self) -> Document:
        return self.article() if self.rng.random() < ARTICLE_SHARE else self.page()

    def article(self) -> Document:
        topics = self.maker.draw_topics("article")
        paragraphs = [self.paragraph(topics) for _ in range(self.rng.randint(1, 3))]
        title = f"# {topics['t']}\n\n"
        return Document(((title, False), ("\n\n".join(paragraphs), True)), True)

    def page(self) -> Document:
        headed = self.rng.random() < HEADED_SHARE
        opening = self.rng.choice(self.introductions) if headed else USER_HEADING
        parts = [(opening, False)]
        for number in range(self.rng.randint(2, 3)):
            if number:
                parts.append((f"\n\n{USER_HEADING}", True))
            parts += [(self.entry(), False), (ASSISTANT_HEADING, True)]
            parts.append((self.paragraph(self.maker.draw_topics("page")), True))
        return Document((*parts, (f"\n\n{USER_HEADING}", True)), False)

    def entry(self) -> str:
        """What stands under `### User`: a question, or prose like everything else."""
        if self.rng.random() < QUESTION_SHARE:
            return self.maker.conversation().prompt
        return self.paragraph(self.maker.draw_topics("page"))

    def paragraph(self, topics: dict[str, str]) -> str:
        kinds = [kind for kind in self.maker.kinds if kind != "person"]
        grammar = self.maker.kinds[self.rng.choice(kinds)]
        return self.maker.fill(self.maker.reply(grammar), topics)
