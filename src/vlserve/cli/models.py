"""`vlserve models`: presets, what they take, and whether this machine holds them."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlserve.catalogue.machine import Fit, Memory, fit, memories, shown_size
from vlserve.catalogue.presets import NATIVE, PRESETS, Preset, find
from vlserve.settings import CPU_CACHE_MIB, MIB

Justify = Literal["left", "right"]

PICTURE: Final = (1024, 768)


def show_models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show models known by name, what they take and whether they fit here; or one of them."""
    show(name, as_json=as_json)


def show(name: str | None, *, as_json: bool) -> None:
    """Print all presets, or the one of that name, for a reader or as JSON.

    Raises ModelError for a name that is not known.
    """
    chosen = PRESETS if name is None else (find(name),)
    found = memories()
    console = Console(highlight=False)
    if as_json:
        facts = [preset_facts(preset, fit(preset, found)) for preset in chosen]
        console.out(json.dumps(facts if name is None else facts[0], indent=1))
    elif name is None:
        console.print(_table(found, console.width))
        console.print(_machine(found))
    else:
        here = fit(chosen[0], found)
        console.print(_details(chosen[0], here))
        if command := serve_command(chosen[0], here):
            # Never broken, so that it can be copied.
            console.print(f"\n{command}", soft_wrap=True)


def preset_facts(preset: Preset, here: Fit) -> dict[str, Any]:
    """Everything that is known of a preset; sizes in bytes, of weights and cache in 16 bits."""
    tokens = preset.image_tokens
    return {
        "name": preset.name,
        "repository": preset.repository,
        "licence": preset.licence,
        "parameters": preset.parameters,
        "dtype": preset.dtype,
        "weight_bytes": preset.weight_bytes(preset.dtype),
        "cache_bytes_per_token": preset.decoder.cache_bytes(1, preset.dtype),
        "cache_bytes_per_conversation": preset.conversation_bytes(preset.dtype),
        "image_tokens": {
            "formula": tokens.formula,
            "tile": tokens.tile_tokens,
            "tile_pixels": tokens.tile_pixels,
            "x".join(map(str, PICTURE)): tokens.count(*PICTURE),
        },
        "max_tokens": preset.decoder.max_tokens,
        "engine": preset.engine,
        "note": preset.note,
        "here": {
            "fits": here.fits,
            "device": here.memory.device,
            "dtype": here.dtype,
            "needed_bytes": here.needed_bytes,
            "memory_bytes": here.memory.num_bytes,
        },
        "command": serve_command(preset, here),
    }


def serve_command(preset: Preset, here: Fit) -> str | None:
    """The command that serves it here; None where the native engine does not."""
    if preset.engine != NATIVE:
        return None
    folder = "embedded" if preset.name == "embedded" else "FOLDER"
    words = ["vlserve", "serve", "--model.path", folder]
    if here.dtype != here.memory.auto_dtype(preset):
        words += ["--engine.dtype", here.dtype]
    if here.memory.device == "cpu":
        words += ["--engine.device", "cpu"]
    cache_mib = -(-preset.conversation_bytes(here.dtype) // MIB)
    if here.memory.device == "cpu" and cache_mib > CPU_CACHE_MIB:
        words += ["--engine.cache_mib", str(cache_mib)]
    return " ".join(words)


def _table(found: list[Memory], width: int) -> Table:
    table = Table(box=None, pad_edge=False)
    chosen = [column for column in COLUMNS if width >= column[1]]
    for heading, _, justify, _ in chosen:
        fold = heading in FOLDED
        table.add_column(heading, justify=justify, no_wrap=not fold, overflow="fold")
    for preset in PRESETS:
        verdict = _verdict(preset, fit(preset, found))
        table.add_row(*(verdict if cell is None else cell(preset) for *_, cell in chosen))
    return table


def _verdict(preset: Preset, here: Fit) -> Text:
    if preset.engine != NATIVE:
        return Text(f"no: {preset.engine} engine", style="yellow")
    if here.fits:
        return Text(f"{preset.engine}, {here.memory.device}, {here.dtype}", style="green")
    return Text(f"no: needs {shown_size(here.needed_bytes)}", style="red")


def _machine(found: list[Memory]) -> Text:
    sizes = ", ".join(f"{memory.device} {shown_size(memory.num_bytes)}" for memory in found)
    return Text(
        "\nweights and cache in 16 bits; cache: of one conversation of 4,096 tokens; picture: the "
        f"tokens of one of {PICTURE[0]} x {PICTURE[1]} pixels; here: weights and a conversation "
        f"within nine tenths of {sizes}"
    )


def _details(preset: Preset, here: Fit) -> Table:
    table = Table.grid(padding=(0, 2))
    tokens, decoder = preset.image_tokens, preset.decoder
    rows: list[tuple[str, str | Text]] = [
        ("name", preset.name),
        ("repository", preset.repository),
        ("licence", preset.licence),
        ("parameters", f"{preset.parameters:,}"),
        ("weights", _in_formats(preset.weight_bytes, preset.dtype)),
        ("cache, a token", _in_formats(lambda kind: decoder.cache_bytes(1, kind), preset.dtype)),
        ("a conversation", _in_formats(preset.conversation_bytes, preset.dtype)),
        ("image tokens", tokens.formula),
        ("a tile", f"{tokens.tile_tokens:,} of {tokens.tile_pixels} x {tokens.tile_pixels} pixels"),
        (f"{PICTURE[0]} x {PICTURE[1]}", f"{tokens.count(*PICTURE):,} image tokens"),
        ("largest context", f"{decoder.max_tokens:,} tokens"),
        ("engine", preset.engine),
        ("here", _verdict(preset, here)),
    ]
    if preset.note:
        rows.append(("note", preset.note))
    if preset.name != "embedded" and preset.engine == NATIVE:
        files = "all .json, .jinja, .txt, .model and .safetensors files"
        rows.append(("to download", f"into FOLDER: {files} of {preset.repository}"))
    for label, value in rows:
        table.add_row(label, value)
    return table


def _in_formats(num_bytes: Any, dtype: str) -> str:
    return ", ".join(f"{shown_size(num_bytes(kind))} in {kind}" for kind in (dtype, "float32"))


# Heading, the narrowest terminal that has it, where it stands, what it says; None: the verdict.
COLUMNS: Final[tuple[tuple[str, int, Justify, Callable[[Preset], str] | None], ...]] = (
    ("name", 0, "left", lambda p: p.name),
    ("repository", 180, "left", lambda p: p.repository),
    ("licence", 180, "left", lambda p: p.licence),
    ("parameters", 110, "right", lambda p: f"{p.parameters / 1e6:,.0f} M"),
    ("weights", 0, "right", lambda p: shown_size(p.weight_bytes(p.dtype))),
    ("a token", 110, "right", lambda p: shown_size(p.decoder.cache_bytes(1, p.dtype))),
    ("cache", 78, "right", lambda p: shown_size(p.conversation_bytes(p.dtype))),
    ("picture", 78, "right", lambda p: f"{p.image_tokens.count(*PICTURE):,}"),
    ("context", 110, "right", lambda p: f"{p.decoder.max_tokens:,}"),
    ("here", 0, "left", None),
)
FOLDED: Final = {"repository", "licence", "here"}
