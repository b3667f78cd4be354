"""What is loaded, and what is refused and how."""

import ast
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlserve.models.catalog import load
from vlserve.models.errors import ModelError

CANARY = "pathlib.Path({ran!r}).write_text(__name__)"
CODE = """
import pathlib
{canary}
class Thing:
    @classmethod
    def from_pretrained(cls, *args, **options):
        return cls()
    def __call__(self, *args, **options):
        return {{}}
def generate(model, **options):
    return None
"""
AUTO_MAP = {
    "AutoConfig": "own_code.Thing",
    "AutoModel": "own_code.Thing",
    "AutoModelForCausalLM": "own_code.Thing",
    "AutoModelForImageTextToText": "own_code.Thing",
    "AutoProcessor": "own_code.Thing",
    "AutoImageProcessor": "own_code.Thing",
    "AutoVideoProcessor": "own_code.Thing",
    "AutoFeatureExtractor": "own_code.Thing",
}
SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "generation_config.json",
)

ROOT = Path(__file__).parents[2]


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(path), device=torch.device("cpu"), dtype=torch.float32)
    return str(caught.value)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def change(file: Path, **values: object) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | values))


def test_a_model_type_without_adapter_is_refused_by_name(folder: Path) -> None:
    change(folder / "config.json", model_type="llama")
    said = refused(folder)
    assert "model type 'llama' is not served: take a model of a family that is served: g" in said


def test_weights_that_lack_a_tensor_are_refused(folder: Path) -> None:
    """Transformers makes up what is missing, at random, and says so in its log."""
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in sorted(tensors) if "mlp.up_proj" in name]
    save_file(
        {name: tensor for name, tensor in tensors.items() if name not in names},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    said = refused(folder)
    assert f"the weights lack {names[0]}, " in said
    assert said.endswith("weights and config.json are of different models")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_files_that_do_not_belong_together_are_refused_in_our_words(
    folder: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    if file == "config.json":
        config = json.loads((folder / file).read_text())
        config["text_config"]["hidden_size"] *= 2
        change(folder / file, **config)
    else:
        (folder / file).write_text("{}")
    said = refused(folder)
    assert "does not load, its files do not belong together or are damaged: download all" in said
    assert "Error" not in said
    assert caplog.messages, "the log says where it ended"


LOAD = """
import sys, threading, torch
from vlserve.models.catalog import load
from vlserve.models.errors import ModelError

def attempt():
    try:
        load(sys.argv[1], device=torch.device("cpu"), dtype=torch.float32)
        print("loaded")
    except ModelError as error:
        print("refused:", error)

attempt()
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
"""


def with_code(folder: Path, ran: Path, how: str) -> None:
    """Put code into the folder that writes `ran` when it is run, and have all files ask for it."""
    code = CODE.format(canary=CANARY.format(ran=str(ran)))
    for name in ("own_code.py", "custom_generate/generate.py", "processing_own.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    if (folder / "processor_config.json").exists() and how != "a known processor":
        # Without a class of Transformers' own to fall back on.
        change(folder / "processor_config.json", processor_class="OwnProcessor")
    if how == "nothing known":
        change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer")
        for name in ("processor_config.json", "preprocessor_config.json"):
            change(folder / name, image_processor_type="OwnImageProcessor")
        processor = json.loads((folder / "processor_config.json").read_text())
        processor["image_processor"]["image_processor_type"] = "OwnImageProcessor"
        processor["image_processor"]["auto_map"] = AUTO_MAP
        change(folder / "processor_config.json", **processor)
    for name in SETTINGS:
        tokenizer = {"AutoTokenizer": ["own_code.Thing", "own_code.Thing"]}
        change(folder / name, auto_map=AUTO_MAP | tokenizer)


@pytest.mark.parametrize("how", ["a known processor", "an own processor", "nothing known"])
def test_no_code_of_a_folder_is_run(folder: Path, tmp_path: Path, how: str) -> None:
    """Whichever thread loads it; nor is it asked for on the terminal, where y is answered."""
    ran = tmp_path / "ran"
    with_code(folder, ran, how)
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 20)
    result = subprocess.run(
        [sys.executable, "-c", LOAD, folder],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HOME": str(tmp_path / "hub")},
    )
    os.close(ours)
    os.close(theirs)
    assert not ran.exists(), result.stdout + result.stderr
    assert "trust_remote_code" not in result.stdout + result.stderr
    assert "custom code" not in result.stdout + result.stderr
    said = result.stdout.splitlines()
    assert len(said) == 2, result.stdout + result.stderr
    for line in said:
        assert line == "loaded" or "no code of a folder is ever run" in line, line


def test_the_canary_sings(tiny_folder: Path, tmp_path: Path) -> None:
    """What the test above writes into a folder does run where somebody trusts it."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    ran = tmp_path / "ran"
    with_code(folder, ran, "a known processor")
    change(folder / "config.json", model_type="own")
    program = (
        "import sys, transformers\n"
        "transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)"
    )
    subprocess.run(
        [sys.executable, "-c", program, folder],
        check=False,
        capture_output=True,
        env=os.environ | {"HF_HOME": str(tmp_path / "hub")},
    )
    assert ran.exists()


def test_every_call_that_reads_a_folder_says_that_its_code_is_not_trusted() -> None:
    calls = [
        (path.name, call)
        for path in (ROOT / "src").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".from_pretrained")
    ]
    assert len(calls) >= 4
    for name, call in calls:
        said = {each.arg: ast.unparse(each.value) for each in call.keywords}
        assert said.get("trust_remote_code") == "False", (name, ast.unparse(call))
        assert said.get("local_files_only") == "True", (name, ast.unparse(call))
