"""Tiny random models for the engine's tests, made once a run."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a family's tiny random model; see tiny_models.FAMILIES."""
    from step2.tiny_models import make_model

    made: dict[str, Path] = {}

    def find(family: str) -> Path:
        if family not in made:
            made[family] = make_model(family, tmp_path_factory.mktemp(family))
        return made[family]

    return find
