"""How a processor is told to look at a picture once, as a whole."""

import copy
from typing import Any, Final

# OpenAI's own side of a picture of low detail, for families that take it at its own size.
_LOW_PIXELS: Final = 512 * 512


def at_a_glance(processor: Any) -> Any:
    """`processor`, set to give a picture as one tile: without splitting (Idefics2, Idefics3,
    SmolVLM), of one patch (InternVL), or of at most 512 x 512 pixels (Qwen). For other families
    it is the same."""
    images = processor.image_processor
    once: dict[str, Any] = {}
    if hasattr(images, "do_image_splitting"):
        once["do_image_splitting"] = False
    if hasattr(images, "max_patches"):
        once["max_patches"] = 1
    if hasattr(images, "merge_size"):
        edges = ("shortest_edge", "longest_edge")
        once["size"] = {edge: min(images.size[edge], _LOW_PIXELS) for edge in edges}
    if not once:
        return processor
    glancing = copy.copy(processor)
    glancing.image_processor = copy.copy(images)
    for name, value in once.items():
        setattr(glancing.image_processor, name, value)
    return glancing
