"""A tiny model folder and its oracle, made once. Imports torch only for who asks for them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.oracle import Oracle


@pytest.fixture(autouse=True)
def usual_scheduling() -> Iterator[None]:
    """A test that leaves its process a real-time one starves those after it."""
    yield
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_model import write_tiny_model  # noqa: PLC0415

    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def oracle(tiny_folder: Path) -> "Oracle":
    from tests.oracle import Oracle  # noqa: PLC0415

    return Oracle(tiny_folder)
