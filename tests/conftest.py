"""Which tests run, and a tiny model folder with its oracle, made once.

Torch is imported only where they are asked for.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tiers import Tier

if TYPE_CHECKING:
    from tests.oracle import Oracle


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", type=Tier, default=Tier.ALL, help="fast, usual, long or all")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    tier: Tier = config.getoption("tier")
    path = collection_path.relative_to(config.rootpath).as_posix()
    return None if tier.reads(f"{path}/" if collection_path.is_dir() else path) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier: Tier = config.getoption("tier")
    config.hook.pytest_deselected(items=[item for item in items if not tier.holds(item.nodeid)])
    items[:] = [item for item in items if tier.holds(item.nodeid)]


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
