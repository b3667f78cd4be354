"""The models that peers are measured on, as folders that all of them can read.

Answers never end before their max_tokens, so that all write equally many tokens.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from vlserve.models.folder import model_folder

BUILT: Final = Path("build") / "bench"
IMAGE_TOKENS: Final = 64
PROCESSOR_FILES: Final = ("processor_config.json", "preprocessor_config.json")
EDGE: Final = 224

# About 150 million parameters in Idefics2's shape.
SMALL: Final[dict[str, dict[str, Any]]] = {
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    "vision_config": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": EDGE,
        "patch_size": 14,
    },
    "perceiver_config": {
        "hidden_size": 768,
        "resampler_n_latents": IMAGE_TOKENS,
        "resampler_depth": 2,
        "resampler_n_heads": 12,
        "resampler_head_dim": 64,
        "num_key_value_heads": 4,
    },
}


def embedded() -> Path:
    """The embedded model, its answers without an end."""
    source, target = model_folder("embedded"), BUILT / "embedded"
    target.mkdir(parents=True, exist_ok=True)
    without_end(source, target)
    return target.resolve()


def small(shape: dict[str, dict[str, Any]] | None = None, target: Path = BUILT / "small") -> Path:
    """An Idefics2 of random weights with the embedded model's words. Made once."""
    if not (target / "model.safetensors").is_file():
        target.mkdir(parents=True, exist_ok=True)
        _write_random(target, shape or SMALL)
    return target.resolve()


def tiles() -> Path:
    """The small one, each picture in five tiles, as Idefics2-8B's processor has it."""
    source, target = small(), BUILT / "tiles"
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        link = target / file.name
        link.unlink(missing_ok=True)
        held = json.loads(file.read_text()) if file.name in PROCESSOR_FILES else {}
        whole = held.get("image_processor", held)
        if whole:
            whole["do_image_splitting"] = True
            link.write_text(json.dumps(held))
        else:
            link.symlink_to(file.resolve())
    return target.resolve()


MODELS: Final = {"embedded": embedded, "small": small}


def without_end(source: Path, target: Path) -> None:
    """The same model with nothing that ends an answer before its max_tokens."""
    for file in source.iterdir():
        link = target / file.name
        link.unlink(missing_ok=True)
        if file.name == "generation_config.json":
            link.write_text(json.dumps(_endless(json.loads(file.read_text()))))
        else:
            link.symlink_to(file.resolve())


def _endless(generation: dict[str, Any]) -> dict[str, Any]:
    return {**generation, "eos_token_id": None}


def _write_random(target: Path, shape: dict[str, dict[str, Any]]) -> None:
    """Weights last, so that a folder that has them is whole."""
    source = model_folder("embedded")
    config = json.loads((source / "config.json").read_text())
    for part, sizes in shape.items():
        config[part] |= sizes
    edge = config["vision_config"]["image_size"]
    for file in source.iterdir():
        if file.suffix not in (".json", ".jinja"):
            continue
        held = file.read_text()
        match file.name:
            case "config.json":
                held = json.dumps(config | {"dtype": "float32"})
            case "generation_config.json":
                held = json.dumps(_endless(json.loads(held)))
            case "processor_config.json":
                whole = json.loads(held)
                whole["image_processor"]["size"] = _size(edge)
                whole["image_seq_len"] = config["perceiver_config"]["resampler_n_latents"]
                held = json.dumps(whole)
            case "preprocessor_config.json":
                held = json.dumps(json.loads(held) | {"size": _size(edge)})
        (target / file.name).write_text(held)
    torch.manual_seed(0)
    made: Any = AutoModelForImageTextToText
    model = made.from_config(AutoConfig.from_pretrained(target))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The library's small range makes every picture look alike.
            if parameter.ndim > 1:
                scale = 1.5 * parameter[0].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif "latents" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # Logits far enough apart that a rounding error does not choose.
        model.get_output_embeddings().weight.mul_(4)
    kept = (target / "config.json").read_text(), (target / "generation_config.json").read_text()
    model.save_pretrained(target)
    # As written above: other tools want names in it that Transformers leaves out.
    (target / "config.json").write_text(kept[0])
    (target / "generation_config.json").write_text(kept[1])


def _size(edge: int) -> dict[str, int]:
    return {"longest_edge": edge, "shortest_edge": edge}
