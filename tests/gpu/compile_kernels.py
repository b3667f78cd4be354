"""Compiles the Triton kernels for an H100, on any machine: python -m tests.gpu.compile_kernels.

The interpreter runs a kernel as Python; this runs the compiler and the assembler over it.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vlserve.engines.native.gpu import triton_kernels

TARGET = GPUTarget("cuda", 90, 32)
# Shared memory of one multiprocessor, bytes: several programs are to fit.
SHARED_BYTES = 228 * 1024


def compiled(name: str, dtype: str, constants: dict[str, int]) -> str:
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
        if signature[n].startswith("*") or signature[n] == "i32"
    }
    constexprs = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs, aligned)
    binary = triton.compile(source, target=TARGET, options={"num_warps": 4, "num_stages": 3})
    shared = binary.metadata.shared
    assert shared * 4 <= SHARED_BYTES, shared
    if name == "_attend_kernel":
        assert "mma.sync" in binary.asm["ptx"], "no tensor cores"
        assert "cp.async" in binary.asm["ptx"], "pages are not loaded ahead"
    return f"{name} {dtype} {constants}: shared {shared} B, cubin {len(binary.asm['cubin'])} B"


def main() -> None:
    """The shapes of Mistral 7B, and others."""
    for dtype in ("bf16", "fp16"):
        for head_dim, group, num_splits, window in (
            (128, 4, 1, 0),
            (128, 4, 8, 4096),
            (96, 1, 32, 0),
            (64, 7, 4, 0),
            (256, 8, 2, 512),
        ):
            heads = {"head_dim": head_dim, "padded_dim": triton.next_power_of_2(head_dim)}
            rows = {"window": window, "group": group, "padded_group": 16, "page_tokens": 32}
            print(compiled("_attend_kernel", dtype, rows | heads | {"num_splits": num_splits}))
            splits = {"num_splits": num_splits, "padded_splits": num_splits}
            print(compiled("_join_kernel", dtype, heads | splits))
            tokens = {"num_kv_heads": 8, "padded_kv_heads": 8, "page_tokens": 32}
            print(compiled("_write_kernel", dtype, heads | tokens))


if __name__ == "__main__":
    main()
