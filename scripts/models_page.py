"""Write docs/models.md from the presets themselves: `python scripts/models_page.py [FILE]`."""

import sys
from collections.abc import Iterable
from pathlib import Path

from vlserve.catalogue.presets import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
WIDTH, HEIGHT = 1024, 768
HEAD = """# Models

Known by name. `vlserve models` adds whether this machine holds them, on which device and in which
number format; with a name it says what to download and the command that serves it.

```sh
vlserve models
vlserve models smolvlm-256m
vlserve models --json
```

Nothing is fetched: download a repository's files into a folder of your own and name that folder
with VLSERVE_MODEL__PATH. A licence is as the repository's card or licence file says; read it before
you use a model. Any other folder of the same families is served as well.

## A folder

It holds `config.json`, `preprocessor_config.json`, a tokenizer, a chat template, and weights as
safetensors. It is judged before anything heavy is imported, by names, JSON files and the headers of
the weights, and what is missing, cut off, only a Git LFS pointer or too large for this machine's
memory is said at once. Not served: GGUF, pickled weights (.bin), quantized weights, adapters
without their base model, families that are not listed below. No Python file of a folder is ever
run: a repository that needs its own code (`auto_map`) is refused, with what to take instead.
"""
MEMORY = """
## Memory

Weights are all parameters in 16 bits, twice that in 32. The cache holds keys and values: 2 x layers
x KV heads x head size x 2 bytes a token, here for one token and for a conversation of 4,096 (or of
the largest context, where that is less). Layers that see only a window are counted in full.

"""
PICTURES = f"""
## Tokens of a picture

With the marks that the processor or the chat template puts around it; at last for one of
{WIDTH} x {HEIGHT} pixels.

"""


def page() -> str:
    """The page, in Markdown."""
    origins = [(p.name, p.repository, p.licence, p.engine) for p in PRESETS]
    memory = [
        (
            p.name,
            f"{p.parameters:,}",
            f"{p.weight_bytes(p.dtype) / 1024**3:.3g}",
            f"{p.decoder.cache_bytes(1, p.dtype) / 1024:,.1f}",
            f"{p.conversation_bytes(p.dtype) / 1024**2:,.0f}",
            f"{p.decoder.max_tokens:,}",
        )
        for p in PRESETS
    ]
    pictures = [
        (
            ", ".join(p.name for p in PRESETS if p.image_tokens == tokens),
            f"{tokens.tile_tokens} of {tokens.tile_pixels} x {tokens.tile_pixels} pixels",
            tokens.formula,
            f"{tokens.count(WIDTH, HEIGHT):,}",
        )
        for tokens in dict.fromkeys(p.image_tokens for p in PRESETS)
    ]
    memory_head = "parameters", "GiB of weights", "KiB a token", "MiB a conversation"
    return (
        f"{HEAD}\n{table(('name', 'repository', 'licence', 'engine'), origins)}"
        f"{MEMORY}{table(('name', *memory_head, 'largest context'), memory)}"
        f"{PICTURES}{table(('names', 'a tile', 'tokens', f'{WIDTH} x {HEIGHT}'), pictures)}"
        "\n## Notes\n\n" + "".join(f"- {p.name}: {p.note}.\n" for p in PRESETS if p.note)
    )


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [" | ".join(headings), "|".join("---" for _ in headings), *map(" | ".join, rows)]
    return "".join(f"| {line} |\n" if "---" not in line else f"|{line}|\n" for line in lines)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
