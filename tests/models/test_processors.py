"""A folder's processor is the same with torchvision installed as without."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.families import FAMILIES, write_family
from vlserve.models.catalog import load
from vlserve.types import Image, Message, Role

# Installed, as a library's metadata says, and fit to be imported; whatever is called of it fails.
BROKEN = (
    "def __getattr__(name):\n"
    "    if name.startswith('__'): raise AttributeError(name)\n"
    "    def broken(*args, **options): raise RuntimeError('torchvision was called: ' + name)\n"
    "    return broken\n"
)
STAND_IN = {
    "torchvision/__init__.py": "__version__ = '0.28.0'\n",
    "torchvision/io/__init__.py": "",
    "torchvision/transforms/__init__.py": "from torchvision.transforms import functional\n"
    "class InterpolationMode:\n    def __getattr__(self, name): return name\n"
    "InterpolationMode = InterpolationMode()\n",
    "torchvision/transforms/functional.py": BROKEN,
    "torchvision/transforms/v2/__init__.py": "from torchvision.transforms.v2 import functional\n",
    "torchvision/transforms/v2/functional.py": BROKEN,
    "torchvision-0.28.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\n"
    "Version: 0.28.0\n",
}
SEEN = (
    "import sys\n"
    "from transformers.utils import is_torchvision_available\n"
    "from tests.models.test_processors import seen\n"
    "assert is_torchvision_available()\n"
    "for folder in sys.argv[1:]: print(seen(folder))\n"
)


def seen(folder: str) -> str:
    """The kind of a folder's processor, and a digest of what it makes of a picture."""
    adapter = load(folder, device=torch.device("cpu"), dtype=torch.float32)
    pixels = np.random.default_rng(1).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    prompt = adapter.prepare((Message(Role.USER, (Image(pixels, ""), "what is it?")),))
    digest = hashlib.sha256(repr(prompt.token_ids).encode())
    for _, array in sorted(prompt.images[0].inputs.items()):
        digest.update(np.ascontiguousarray(array).tobytes())
    kinds = (type(adapter.processor), type(adapter.processor.image_processor))
    return f"{' '.join(kind.__name__ for kind in kinds)} {digest.hexdigest()}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    at = tmp_path_factory.mktemp("families")
    return [str(write_family(family, at / family)) for family in FAMILIES]


def test_torchvision_changes_no_processor(folders: list[str], tmp_path: Path) -> None:
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(tmp_path), *(each for each in sys.path if each)])
    result = subprocess.run(
        [sys.executable, "-c", SEEN, *folders],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [seen(folder) for folder in folders]
    assert result.stdout.count("ImageProcessorPil ") == len(FAMILIES)
