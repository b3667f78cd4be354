"""Compiles the Triton kernels for cards that are not here, on any machine: python -m
tests.gpu.compile_kernels.

The interpreter runs a kernel as Python; this runs the compiler and the assembler over it.
"""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vlserve.engines.native.gpu import triton_kernels

# Shared memory that a program may have, bytes, by compute capability. Of an H100's multiprocessor
# four programs are to fit.
PROGRAM_BYTES = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
H100, H100_BYTES = 90, 228 * 1024
PAGE_TOKENS = 32
ELEMENT_SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}


def compiled(name: str, dtype: str, constants: dict[str, int], card: int = H100) -> str:
    """What there is to say of a compiled kernel."""
    kernel = getattr(triton_kernels, name)
    types = dict.fromkeys(("sums", "maxima", "totals"), "*fp32")
    types |= dict.fromkeys(
        ("query", "key", "value", "key_pages", "value_pages", "out"), f"*{dtype}"
    )
    types |= {"page_table": "*i32", "lengths": "*i32", "places": "*i64", "scaling": "fp32"}
    names = [parameter.name for parameter in kernel.params]
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    # As at a launch: addresses and strides are multiples of 16.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, n in enumerate(names)
        if n != "num_rows" and (signature[n].startswith("*") or signature[n] == "i32")
    }
    constexprs = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs, aligned)
    dim = constants["padded_dim"]
    stages = triton_kernels.num_stages(dim, PAGE_TOKENS, ELEMENT_SIZES[dtype])
    options = {"num_warps": 4, "num_stages": stages}
    binary = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
    shared = binary.metadata.shared
    assert shared <= PROGRAM_BYTES[card], (card, constants, shared)
    said = f"sm_{card} {name} {dtype} {constants}: shared {shared} B"
    if name != "_attend_kernel":
        return said
    ptx = binary.asm["ptx"]
    waits = [int(number) for number in re.findall(r"cp\.async\.wait_group\s+(\d+);", ptx)]
    buffers = max(map(int, re.findall(rf"memdesc<(\d+)x{dim}x{PAGE_TOKENS}x", binary.asm["ttgir"])))
    if dtype != "fp32":
        assert "mma.sync" in ptx, "no tensor cores"
        # A page is computed with while copies of the next one are still under way.
        assert buffers >= 2, buffers
        assert max(waits) >= 2, waits
        assert dim > 128 or card != H100 or shared * 4 <= H100_BYTES, shared
    return f"{said}, buffers {buffers}, copies waited for {waits}"


def attention(head_dim: int, group: int, window: int, *, rows: int, shares: int) -> dict[str, int]:
    """The constants of the kernel that attends."""
    return {
        "num_kv_heads": 8,
        "group": group,
        "padded_group": max(16, triton.next_power_of_2(group)),
        "padded_rows": rows,
        **joining(head_dim, window, shares),
    }


def joining(head_dim: int, window: int, shares: int) -> dict[str, int]:
    """Those of the kernel that joins shares."""
    return {
        "head_dim": head_dim,
        "padded_dim": triton.next_power_of_2(head_dim),
        "window": window,
        "page_tokens": PAGE_TOKENS,
        "min_share": triton_kernels.MIN_SHARE_PAGES,
        "max_shares": shares,
    }


def main() -> None:
    """The shapes of Mistral 7B, and others."""
    for head_dim, group, window, rows, shares in (
        (128, 4, 0, 32, 64),
        (128, 4, 4096, 64, 64),
        (96, 1, 0, 16, 32),
        (64, 7, 0, 16, 64),
        (256, 8, 512, 1024, 16),
    ):
        for dtype in ("bf16", "fp16"):
            sizes = attention(head_dim, group, window, rows=rows, shares=shares)
            print(compiled("_attend_kernel", dtype, sizes))
        print(compiled("_join_kernel", "bf16", joining(head_dim, window, shares)))
        heads = {"head_dim": head_dim, "padded_dim": triton.next_power_of_2(head_dim)}
        tokens = {"num_kv_heads": 8, "padded_kv_heads": 8, "page_tokens": PAGE_TOKENS}
        print(compiled("_write_kernel", "bf16", heads | tokens))
    # What is large, on cards with less room.
    for card in PROGRAM_BYTES:
        for dtype, head_dim in (("bf16", 256), ("fp32", 128), ("fp32", 256)):
            sizes = attention(head_dim, 4, 0, rows=32, shares=64)
            print(compiled("_attend_kernel", dtype, sizes, card))


if __name__ == "__main__":
    main()
