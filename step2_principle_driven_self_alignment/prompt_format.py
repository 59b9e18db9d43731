"""How the dialogue of a prompt file goes: where the model takes over, and where its reply ends."""

from dataclasses import dataclass


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

    def own_part(self, instruction: str, input_text: str) -> str:
        """What follows the prompt for one user prompt, up to where the model takes over."""
        return self.before + joined_prompt(instruction, input_text) + self.cue


SELF_ALIGN = PromptFormat()


def joined_prompt(instruction: str, input_text: str) -> str:
    """The user's words: the instruction, and after a blank line the input where there is one."""
    return "\n\n".join(part for part in (instruction, input_text) if part)
