"""How the dialogue of a prompt file goes: where the model takes over, and where its reply ends."""

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class PromptFormat:
    """The dialogue of one prompt file; the defaults are the self-align prompt's."""

    ends_with: str = "User:"  # how the prompt file ends, so that the user's words can follow
    before: str = " "  # stands between the prompt and the user's words
    cue: str = "\n\nWatson (internal thoughts):"  # follows the user's words; the model goes on
    reply_marker: str = "\nWatson:"  # opens the reply
    end_marker: str = "\nUser:"  # ends the response

    @property
    def codename(self) -> str:
        """The name that the assistant bears in the prompt."""
        return self.reply_marker.strip().removesuffix(":")

    @cached_property
    def next_turn(self) -> re.Pattern[str]:
        """Opens a turn after the reply, and so ends the reply.

        That is the user's next turn or, where a model goes on talking to itself, a further one of
        the codename: `Watson:` or `Watson (…):` at the start of a line.
        """
        markers = [re.escape(marker) for marker in (self.end_marker, self.reply_marker) if marker]
        if self.reply_marker.endswith(":"):
            markers.append(rf"\n{re.escape(self.codename)} ?\([^()\n]*\):")
        return re.compile("|".join(markers))

    @cached_property
    def begun_turn(self) -> re.Pattern[str]:
        """The end of a text that may become a `next_turn`, though words of it are whole already."""
        return re.compile(rf"\n{re.escape(self.codename)}(?: ?(?:\([^()\n]*\)?)?)?\Z")

    def own_part(self, instruction: str, input_text: str) -> str:
        """What follows the prompt for one user prompt, up to where the model takes over."""
        return self.before + joined_prompt(instruction, input_text) + self.cue


SELF_ALIGN = PromptFormat()


def joined_prompt(instruction: str, input_text: str) -> str:
    """The user's words: the instruction, and after a blank line the input where there is one."""
    return "\n\n".join(part for part in (instruction, input_text) if part)
