"""The files that a merge writes: made in a hidden folder beside, then renamed into place."""

import shutil
import tempfile
from pathlib import Path


class MergedFiles:
    """A context manager; what was not published when it is left is removed.

    For an output file `merged.json`: `merged.json`, `merged.report.json`, `merged.report.html`,
    `merged.README.md`, and with `parquet` the folder `merged_dataset`.
    """

    def __init__(self, output_file: Path, *, parquet: bool) -> None:
        self.training = output_file
        stem = output_file.stem
        self.report = output_file.with_name(f"{stem}.report.json")
        self.page = output_file.with_name(f"{stem}.report.html")
        self.card = output_file.with_name(f"{stem}.README.md")
        self.dataset = output_file.with_name(f"{stem}_dataset") if parquet else None

    def __enter__(self) -> "MergedFiles":
        parent = self.training.parent
        if not parent.is_dir():
            raise FileNotFoundError(f"--output_file {self.training}: there is no folder {parent}")
        if self.training.is_dir():
            raise IsADirectoryError(f"--output_file {self.training} is a folder; name a file")
        self.folder = Path(tempfile.mkdtemp(prefix=f".{self.training.name}.", dir=parent))
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def beside(self, path: Path) -> Path:
        """Where to write what shall become `path`."""
        return self.folder / path.name

    def publish(self) -> list[Path]:
        """Renames everything into place, the training records last; returns the paths."""
        if self.dataset is not None:
            if self.dataset.exists():
                self.dataset.rename(self.folder / "replaced")
            self.beside(self.dataset).rename(self.dataset)
        files = [self.report, self.page, self.card, self.training]
        for path in files:
            self.beside(path).replace(path)
        return files if self.dataset is None else [self.dataset, *files]
