"""What a run writes: prompts, report, rejects. All beside their names first, renamed at the end."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from command_line import InputError
from preparation_report import PreparationReport
from prompt_records import write_prompts

logger = logging.getLogger(__name__)


def report_path(output_path: Path) -> Path:
    """Where the report of a prompt file lies."""
    return output_path.with_suffix(".report.json")


def page_path(output_path: Path) -> Path:
    """Where the report's HTML page lies."""
    return output_path.with_suffix(".report.html")


def output_files(flag: str, output_path: Path, rejects_path: Path | None) -> dict[str, Path]:
    """The files that a run writes, by the flag that names each."""
    files = {
        flag: output_path,
        f"report of {flag}": report_path(output_path),
        f"page of {flag}": page_path(output_path),
    }
    return files | ({"--rejects_file": rejects_path} if rejects_path else {})


class PromptOutput:
    """A context in which rows are dropped with a reason, and at whose end the files appear.

    Until `finish` the files of an earlier run stay as they are; after an error they still do.
    """

    def __init__(
        self, output_path: Path, report: PreparationReport, rejects_path: Path | None
    ) -> None:
        self.path = output_path
        self.report_path = report_path(output_path)
        self.page_path = page_path(output_path)
        self.rejects_path = rejects_path
        self.report = report
        self._rejects: TextIO | None = None

    def __enter__(self) -> "PromptOutput":
        for path in filter(None, (self.path, self.rejects_path)):
            if path.is_dir():
                raise InputError(f"{path} is a folder; name a file to write")
            path.parent.mkdir(parents=True, exist_ok=True)
        _beside(self.path).touch()  # fails now where nothing can be written
        if self.rejects_path:
            self._rejects = _beside(self.rejects_path).open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *error: object) -> None:
        if self._rejects:
            self._rejects.close()
        for path in filter(None, (self.path, self.report_path, self.page_path, self.rejects_path)):
            _beside(path).unlink(missing_ok=True)

    def drop(self, source: str, reason: str, text: object = None, **details: object) -> None:
        """Counts a dropped row and keeps it in the rejects file, if there is one.

        `text` may be a function that makes the text.
        """
        self.report.dropped[source, reason] += 1
        text = text() if callable(text) else text
        text = text.decode(errors="backslashreplace") if isinstance(text, bytes) else text
        if isinstance(text, str):
            self.report.show_dropped(source, reason, text, details)
        if self._rejects:
            row = {"reason": reason, "source": source, "text": text, **details}
            self._rejects.write(json.dumps(row, default=str) + "\n")  # ASCII: any text fits

    def finish(self, records: list[dict[str, Any]], lengths: Iterable[int]) -> None:
        """Writes all files and puts them in place.

        Raises:
            InputError: no record is left; the table says why.
        """
        self.report.count_kept((record["source"] for record in records), lengths)
        print(self.report.table())
        if not records:
            raise InputError(f"no prompt is left (see the table above); {self.path} is not written")
        for warning in self.report.empty_sources():
            logger.warning("warning: %s", warning)
        write_prompts(_beside(self.path), records)
        report = json.dumps(self.report.as_json(), indent=2, ensure_ascii=False)
        _write_text(_beside(self.report_path), report + "\n")
        _write_text(_beside(self.page_path), self.report.page(f"Prompts in {self.path.name}"))
        if self._rejects:
            self._rejects.close()
            _beside(self.rejects_path).replace(self.rejects_path)
        _beside(self.page_path).replace(self.page_path)
        _beside(self.report_path).replace(self.report_path)
        _beside(self.path).replace(self.path)
        print(f"{len(records):,} prompts in {self.path}, the report in {self.page_path}")


def _write_text(path: Path, text: str) -> None:
    """Half a character, which no UTF-8 file can hold, becomes its number."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
