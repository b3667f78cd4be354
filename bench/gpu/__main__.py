"""Measure one CUDA device, without a network: python -m bench.gpu FOLDER.

Builds Idefics2-8B with random weights on the device. Every figure is printed and written as soon
as it is there.
"""

import argparse
import gc
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu.measure import Decode, Pictures, measure_device, measure_first_token
from bench.gpu.model import IDEFICS2_8B, TOY, make_config, make_model
from bench.gpu.report import Report, device_name, facts
from vlserve.engines.native.gpu.kernels import choose_kernels


def main() -> None:
    """Everything in turn."""
    options = parse()
    started = time.monotonic()
    # Why plain attention was chosen, if it was.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.toy and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --toy tries the measurement itself on any machine")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    name = device_name()
    if device.type == "cpu":
        # Threads only wait for each other in a model this small.
        torch.set_num_threads(1)
    report = Report(options.folder, facts())
    with torch.inference_mode():
        measured = measure_device(device, name, dtype, report)
        began = time.perf_counter()
        config = make_config(TOY if options.toy else IDEFICS2_8B)
        model = make_model(config, device, dtype)
        text = config.text_config
        kernels = choose_kernels(
            device,
            dtype,
            num_heads=text.num_attention_heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
        )
        report.add(
            "model",
            billion_parameters=model.num_parameters() / 1e9,
            weight_gb=sum(p.nbytes for p in model.parameters()) / 1e9,
            dtype=str(dtype),
            attention=kernels.name,
            made_s=time.perf_counter() - began,
        )
        decode = Decode(model, kernels, measured, report)
        decode.measure()
        pictures = Pictures(model, measured, report)
        pictures.measure()
        measure_first_token(decode.decoder, model, pictures, measured, report)
        decode.decoder.close()
        del decode, pictures
        gc.collect()
        measure_through_engine(model, report, is_toy=options.toy)
    report.add("run", seconds=time.monotonic() - started)


def measure_through_engine(model: Any, report: Report, *, is_toy: bool) -> None:
    """As `measure_engine`, where there is all that the engine stands on."""
    try:
        from bench.gpu.engine import FULL, TOY, measure_engine  # noqa: PLC0415 - may be missing
    except ImportError as error:
        report.add("engine", result=f"not measured: {error}")
        return
    measure_engine(model, report, TOY if is_toy else FULL)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("folder", type=Path, help="where gpu.json and gpu.md are written")
    parser.add_argument("--toy", action="store_true", help="a tiny model, on any machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
