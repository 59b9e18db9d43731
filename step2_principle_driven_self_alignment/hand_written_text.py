"""Texts that people write by hand: prompts, formats, rules. UTF-8, with or without its mark."""

from pathlib import Path

from user_error import UserError


def read_text(path: Path, what: str) -> str:
    """The file's text; UserError, naming it as `what` (its flag), where it is none.

    A byte-order mark, which some editors put in front, is no part of the text; line ends become
    line feeds.
    """
    if not path.is_file():
        raise UserError(f"{what} {path}: there is no such file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8: {error}. Save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{what} {path} is not a text in UTF-8 (zero bytes). Save it as UTF-8")
    return text.replace("\r\n", "\n")
