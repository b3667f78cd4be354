"""Keys and values of running sequences on a GPU: pages that several of them may share."""

import torch

from vlserve.engines.native.runners.cache_shape import CacheShape
from vlserve.engines.native.scheduling.pages import PAGE


class PagedCache:
    """`keys[layer]` and `values[layer]`: `[num_pages, num_kv_heads, PAGE, head_dim]`.

    Who owns a page is not known here. What lies in a page where nothing was written since it
    changed hands is anything, NaN too, and is never read.
    """

    def __init__(
        self, shape: CacheShape, *, num_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_pages = num_pages
        self.num_tokens = num_pages * PAGE
        self.num_bytes = num_pages * shape.page_bytes(dtype)
        size = (num_pages, shape.num_kv_heads, PAGE, shape.head_dim)
        layers = range(shape.num_layers)
        self.keys = [torch.empty(size, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.empty(size, dtype=dtype, device=device) for _ in layers]
