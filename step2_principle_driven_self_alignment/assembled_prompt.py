"""How a user prompt is put behind the principle prompt, which ends with `User:`."""

from pathlib import Path

USER_TURN = "User:"
THOUGHTS_CUE = "Watson (internal thoughts):"


def read_principle_prompt(path: Path) -> str:
    """The text in front of every user prompt; ValueError unless it ends with the user's turn."""
    if not path.is_file():
        raise FileNotFoundError(f"no such principle prompt: {path} (--prompt_file)")
    text = path.read_text(encoding="utf-8").rstrip()
    if not text.endswith(USER_TURN):
        raise ValueError(
            f"{path} ends with {text[-20:]!r}; a principle prompt ends with {USER_TURN!r}, "
            "so that the user's words can follow"
        )
    return text


def own_part(instruction: str, input_text: str) -> str:
    """What follows the principle prompt for one user prompt, up to where the model takes over."""
    said = "\n\n".join(part for part in (instruction, input_text) if part)
    return f" {said}\n\n{THOUGHTS_CUE}"
