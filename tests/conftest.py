"""A tiny model folder and its oracle, made once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.oracle import Oracle
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small only lose by more, and tests run beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def usual_scheduling() -> Iterator[None]:
    """A test that leaves its process a real-time one starves those after it."""
    yield
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def oracle(tiny_folder: Path) -> Oracle:
    return Oracle(tiny_folder)
