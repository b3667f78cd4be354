"""How a processor is told to look at a picture once, as a whole."""

import copy
from typing import Any, Final

# OpenAI's own side of a picture of low detail, for families that take it at its own size.
_LOW_PIXELS: Final = 512 * 512


def at_a_glance(processor: Any) -> Any:
    """`processor`, set to give a picture as one tile: without splitting (Idefics2, Idefics3,
    SmolVLM), of one patch (InternVL), or of at most 512 x 512 pixels (Qwen). For other families
    it changes nothing."""
    glancing = copy.copy(processor)
    images = glancing.image_processor = copy.copy(processor.image_processor)
    if hasattr(images, "do_image_splitting"):
        images.do_image_splitting = False
    if hasattr(images, "max_patches"):
        images.max_patches = 1
    if hasattr(images, "merge_size"):
        smallest, largest = images.size["shortest_edge"], images.size["longest_edge"]
        images.size = {
            "shortest_edge": min(smallest, _LOW_PIXELS),
            "longest_edge": min(largest, _LOW_PIXELS),
        }
    return glancing
