"""Figures of the presets, against Transformers' own models and processors, built here."""

import json
import math
import random
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from tests.families import tokenizer
from tests.models.preset_configs import CONFIGS
from vlserve.catalogue import machine
from vlserve.catalogue.machine import Memory, fit
from vlserve.catalogue.presets import NATIVE, PRESETS, Preset, find
from vlserve.cli import models as listing
from vlserve.models.errors import ModelError
from vlserve.models.families import ADAPTERS
from vlserve.models.folder import model_folder
from vlserve.models.processors import for_pictures
from vlserve.settings import CPU_CACHE_MIB, MIB, read

tf: Any = transformers
GIB = 1024**3
SIZES = [(1024, 768), (300, 1400), (336, 336), (40, 30), (1600, 500)]


@cache
def config(name: str) -> Any:
    if name == "embedded":
        return tf.AutoConfig.from_pretrained(model_folder(name))
    return CONFIGS[name]()


def parameters(name: str) -> int:
    """Each once, as a model of the configuration has them; nothing takes memory."""
    with torch.device("meta"):
        model = tf.AutoModelForImageTextToText.from_config(config(name))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_parameters_and_cache_are_those_of_the_model(preset: Preset) -> None:
    counted = parameters(preset.name)
    print(f"{preset.name}: says {preset.parameters:,}, counted {counted:,}")
    assert math.isclose(preset.parameters, counted, rel_tol=0.005)
    text = config(preset.name).get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    decoder = preset.decoder
    assert (decoder.layers, decoder.kv_heads, decoder.head_dim) == (
        text.num_hidden_layers,
        text.num_key_value_heads,
        head_dim,
    )


def test_a_wrong_parameter_count_would_be_found() -> None:
    wrong = find("smolvlm-256m").parameters * 1.006
    assert not math.isclose(wrong, parameters("smolvlm-256m"), rel_tol=0.005)


def test_the_embedded_model_is_as_its_file_says() -> None:
    folder = model_folder("embedded")
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    stored = [entry for name, entry in header.items() if name != "__metadata__"]
    preset = find("embedded")
    assert preset.parameters == sum(math.prod(entry["shape"]) for entry in stored)
    assert preset.weight_bytes(preset.dtype) == max(entry["data_offsets"][1] for entry in stored)
    assert preset.decoder.max_tokens == config("embedded").text_config.max_position_embeddings


def test_bytes_are_the_formula() -> None:
    preset = find("idefics2-8b")
    assert preset.decoder.cache_bytes(1, "bfloat16") == 2 * 32 * 8 * 128 * 2
    assert preset.conversation_bytes("float32") == 2 * 32 * 8 * 128 * 4 * 4096
    assert preset.weight_bytes("bfloat16") == 2 * 8_402_768_112
    assert find("embedded").conversation_bytes("float16") == 2 * 4 * 4 * 32 * 2 * 2048


def words(family: str) -> Any:
    """A tokenizer to which every mark is one token, and so are line ends, as in the models' own."""
    made = tokenizer(family)
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    made.add_tokens(["\n\n", "\n", *places], special_tokens=True)
    return made


def idefics2() -> tuple[Any, str]:
    images = tf.Idefics2ImageProcessorPil(
        size={"longest_edge": 980, "shortest_edge": 378}, do_image_splitting=True
    )
    return tf.Idefics2Processor(images, words("idefics2"), image_seq_len=64), "<image>"


def embedded() -> tuple[Any, str]:
    return tf.AutoProcessor.from_pretrained(model_folder("embedded")), "<image>"


def idefics3(features: int, tile: int, longest: int) -> tuple[Any, str]:
    images = tf.Idefics3ImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": tile}
    )
    return tf.Idefics3Processor(images, words("idefics3"), image_seq_len=features), "<image>"


def internvl() -> tuple[Any, str]:
    images = tf.GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, crop_to_patches=False, min_patches=1, max_patches=12
    )
    made = for_pictures(tf.InternVLProcessor)(images, words("internvl"), image_seq_length=256)
    return made, "<IMG_CONTEXT>"


def llava(kind: str) -> tuple[Any, str]:
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    options = {
        "patch_size": 14, "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }  # fmt: skip
    if kind == "Llava":
        images = tf.CLIPImageProcessorPil(**size)
    else:
        grid = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
        images = tf.LlavaNextImageProcessorPil(**size, image_grid_pinpoints=grid)
    return getattr(tf, f"{kind}Processor")(images, words("llava"), **options), "<image>"


def qwen(kind: str, patch: int, least: int, most: int) -> tuple[Any, str]:
    images = tf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": least, "longest_edge": most}, patch_size=patch
    )
    made = for_pictures(getattr(tf, f"Qwen{kind}VLProcessor"))(images, words("qwen"))
    return made, "<|vision_start|><|image_pad|><|vision_end|>"


def gemma3() -> tuple[Any, str]:
    images = tf.Gemma3ImageProcessorPil(size={"height": 896, "width": 896})
    return tf.Gemma3Processor(images, words("gemma3"), image_seq_length=256), "<start_of_image>"


# A preset for each way of counting, and the processor with the settings of its repository.
PROCESSORS: dict[str, Callable[[], tuple[Any, str]]] = {
    "embedded": embedded,
    "idefics2-8b": idefics2,
    "idefics3-8b": lambda: idefics3(169, 364, 1456),
    "smolvlm-256m": lambda: idefics3(64, 512, 2048),
    "smolvlm-2.2b": lambda: idefics3(81, 384, 1536),
    "internvl3-8b": internvl,
    "llava-1.5-7b": lambda: llava("Llava"),
    "llava-v1.6-mistral-7b": lambda: llava("LlavaNext"),
    "qwen2.5-vl-7b": lambda: qwen("2_5_", 14, 56 * 56, 12_845_056),
    "qwen3-vl-8b": lambda: qwen("3", 16, 65_536, 16_777_216),
    "gemma3-4b": gemma3,
}


def test_every_way_of_counting_is_tried() -> None:
    tried = {find(name).image_tokens for name in PROCESSORS}
    assert {preset.image_tokens for preset in PRESETS} == tried


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_tokens_are_those_of_the_processor(name: str) -> None:
    processor, mark = PROCESSORS[name]()
    tokens = find(name).image_tokens
    (start,) = processor.tokenizer("")["input_ids"]
    for width, height in SIZES:
        made = processor(text=[mark], images=[[Image.new("RGB", (width, height))]])
        ids = list(made["input_ids"][0])
        assert ids[0] == start
        assert tokens.count(width, height) == len(ids) - 1, (name, width, height)


@pytest.mark.parametrize(
    "name", [name for name in PROCESSORS if name not in {"embedded", "idefics2-8b"}]
)
def test_image_tokens_of_many_sizes(name: str) -> None:
    """What the processor foretells, which takes no picture and so may be asked often."""
    processor, mark = PROCESSORS[name]()
    tokens = find(name).image_tokens
    marks = {"gemma3-4b": 4}.get(name, 2 if "vision_start" in mark else 0)
    rng = random.Random(2026)
    sides = [round(math.exp(rng.uniform(math.log(30), math.log(5000)))) for _ in range(800)]
    sizes = list(zip(sides[::2], sides[1::2], strict=True))
    foretold = processor._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in sizes])
    held = sum(
        tokens.count(*size) == said + marks
        for size, said in zip(sizes, foretold["num_image_tokens"], strict=True)
    )
    print(f"{name}: tried {len(sizes)}, held {held}")
    assert held == len(sizes) == 400


def test_names_are_unique_and_every_native_family_is_there() -> None:
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    families = {config(preset.name).model_type for preset in PRESETS if preset.engine == NATIVE}
    # SmolVLM's first repositories say idefics3.
    assert families | {"smolvlm"} == set(ADAPTERS)


def test_an_unknown_name_is_told_what_is_close() -> None:
    assert find("SmolVLM-256M").name == "smolvlm-256m"
    with pytest.raises(ModelError, match=r"'qwen2-vl-7b'; close to it: .*qwen2\.5-vl-7b"):
        find("qwen2-vl-7b")
    with pytest.raises(ModelError, match="`vlserve models` lists"):
        find("zzz")


def test_presets_need_nothing_heavy() -> None:
    program = (
        "import sys, vlserve.catalogue.presets; print({'torch', 'transformers'} & {*sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.strip() == b"set()"


def test_what_fits_where() -> None:
    small, large = Memory("cpu", 24 * GIB), Memory("cuda", 24 * GIB)
    assert fit(find("smolvlm-2.2b"), [small]).dtype == "float32"
    on_cpu = fit(find("idefics2-8b"), [small])
    assert (on_cpu.fits, on_cpu.dtype) == (True, "bfloat16")
    on_gpu = fit(find("idefics2-8b"), [large, small])
    assert (on_gpu.fits, on_gpu.memory.device, on_gpu.dtype) == (True, "cuda", "bfloat16")
    spilled = fit(find("smolvlm-2.2b"), [Memory("cuda", GIB), small])
    assert (spilled.fits, spilled.memory.device) == (True, "cpu")
    too_large = fit(find("internvl3-78b"), [large, small])
    assert (too_large.fits, too_large.dtype) == (False, "bfloat16")
    assert too_large.needed_bytes == find("internvl3-78b").needed_bytes("bfloat16")
    upstream = fit(find("internvl2.5-78b"), [Memory("cuda", 1000 * GIB)])
    assert not upstream.fits
    assert listing.serve_command(find("internvl2.5-78b"), upstream) is None


def test_a_tenth_of_the_memory_is_held_back() -> None:
    preset = find("smolvlm-256m")
    needed = preset.needed_bytes("bfloat16")
    assert not fit(preset, [Memory("cuda", needed)]).fits
    assert fit(preset, [Memory("cuda", math.ceil(needed / 0.9) + 1)]).fits


def test_memory_is_no_more_than_the_limit_of_the_container(tmp_path: Any) -> None:
    free = {memory.device: memory for memory in machine.memories(tmp_path / "none")}["cpu"]
    assert free.num_bytes > GIB // 4
    (tmp_path / "limit").write_text("134217728\n")
    (tmp_path / "none").write_text("max\n")
    bound = {memory.device: memory for memory in machine.memories(tmp_path / "limit")}["cpu"]
    assert bound.num_bytes == 134_217_728
    assert machine.memories(tmp_path / "none")[-1] == free


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_command_is_made_of_settings_that_are_taken(preset: Preset, device: str) -> None:
    here = fit(preset, [Memory(device, 400 * GIB)])
    command = listing.serve_command(preset, here)
    assert (command is None) == (preset.engine != NATIVE)
    if command is None:
        return
    _, verb, *flags = shlex.split(command)
    assert verb == "serve"
    tree: dict[str, dict[str, str]] = {}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        room, setting = flag.removeprefix("--").split(".")
        tree.setdefault(room, {})[setting] = value
    settings, _ = read(tree)
    cache_mib = settings.engine.cache_mib or CPU_CACHE_MIB
    # On a GPU it is what is left, and what fits was computed with a conversation.
    assert device == "cuda" or cache_mib * MIB >= preset.conversation_bytes(here.dtype)
    assert device == "cpu" or settings.engine.cache_mib is None
    dtype = settings.engine.dtype
    assert here.dtype == (here.memory.auto_dtype(preset) if dtype == "auto" else dtype)
    # On a GPU a preset is served in its own format, and nobody need say so.
    assert device == "cpu" or dtype == "auto"
