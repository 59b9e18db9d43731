"""Checkpoints that are whole or not there, and runs that can't be mistaken for one another.

A checkpoint is written into a staging folder, gets a manifest with the size and SHA-256 of every
file, reaches the disk, and is renamed into place. A folder whose files don't match its manifest is
not used. The fingerprint of a run lists what decides its result; a run that differs in one of these
is refused.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from training_records import hash_file

logger = logging.getLogger(__name__)

STAGING = ".saving"
MANIFEST = "checkpoint_manifest.json"
FINGERPRINT = "run_fingerprint.json"
COMPLETED = "completed"
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def clear_staging(output_dir: Path) -> Path:
    """Removes what a killed run left unfinished, and returns the (absent) staging folder's path."""
    staging = output_dir / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    return staging


def publish_checkpoint(staged: Path, output_dir: Path) -> Path:
    """Moves a completely written checkpoint from the staging folder to its place, in one step."""
    files = {
        str(path.relative_to(staged)): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in _files(staged)
    }
    (staged / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    for path in [*_files(staged), staged]:
        _to_disk(path)
    target = output_dir / staged.name
    if target.exists():  # a damaged one of an earlier attempt; a rename can't replace a full folder
        target.rename(staged.with_name(f"replaced-{staged.name}"))
    staged.rename(target)
    _to_disk(output_dir)
    return target


def newest_good_checkpoint(output_dir: Path) -> Path | None:
    """The checkpoint of the highest step that is whole; warns of each damaged one that it passes
    over.
    """
    for path in reversed(checkpoints(output_dir)):
        damage = find_damage(path)
        if damage is None:
            return path
        logger.warning("skipping the damaged checkpoint %s: %s", path, damage)
    return None


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders of a run in the order of their steps, good or damaged."""
    found = [
        path for path in output_dir.glob("checkpoint-*") if _CHECKPOINT_NAME.fullmatch(path.name)
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(_CHECKPOINT_NAME.fullmatch(checkpoint.name).group(1))


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None for a whole one."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError) as error:
        return f"its {MANIFEST} can't be read ({error})"
    for name, expected in manifest.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if hash_file(path) != expected["sha256"]:
            return f"{name} differs from what was written"
    return None


def remove_old_checkpoints(output_dir: Path, keep: int | None) -> None:
    """Keeps the newest `keep` checkpoints (None or 0: all of them)."""
    if keep:
        for path in checkpoints(output_dir)[:-keep]:
            shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file beside and renames it, so that nobody reads half of it."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    _to_disk(partial)
    partial.replace(path)


def refuse_other_run(output_dir: Path, fingerprint: dict) -> None:
    """Raises ValueError where output_dir belongs to another run, naming the first other field."""
    path = output_dir / FINGERPRINT
    if not path.is_file():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted(earlier.keys() | fingerprint.keys()):
        before, now = earlier.get(name), fingerprint.get(name)
        if before != now:
            raise ValueError(
                f"{output_dir} holds a run with {name} = {_short(before)}, "
                f"this one has {_short(now)}: going on would train something else; "
                "use the same settings or another --output_dir"
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
