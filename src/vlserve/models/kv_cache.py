"""How much memory keys and values take. Knows no torch."""


def kv_cache_bytes(
    num_tokens: int, *, num_layers: int, num_kv_heads: int, head_dim: int, item_bytes: int
) -> int:
    """Keys and values of `num_tokens` tokens in all layers, in bytes.

    `item_bytes` is the size of one number. An upper bound where some layers see a window only.
    """
    return 2 * num_layers * num_kv_heads * head_dim * item_bytes * num_tokens
