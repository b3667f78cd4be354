"""The measurements, the most telling first."""

import math
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench.gpu import roofline
from bench.gpu.decoder import PagedDecoder
from bench.gpu.report import Report
from bench.gpu.roofline import seconds
from vlserve.engines.native.gpu.cuda_graphs import (
    CudaRecorder,
    DecodeGraphs,
    DecodeRow,
    EagerRecorder,
    Recorder,
)
from vlserve.engines.native.gpu.kernels import PAGE_TOKENS, PLAIN, PagedKernels
from vlserve.models.idefics_tiles import encode_tiles

BATCHES = (1, 8, 32, 64)
CONTEXT = 400
# Steps of the run in which each token is the next one's input.
LOOP_STEPS = 64
NUM_PAGES = math.ceil((CONTEXT + LOOP_STEPS) / PAGE_TOKENS)
# The width of a page table that holds Mistral's window; plain attention gathers all of a table, so
# it is given one of NUM_PAGES.
WIDE_TABLE = 4096 // PAGE_TOKENS
TEXT_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Device:
    """What the device can do, measured: bytes and operations a second."""

    device: torch.device
    name: str
    bandwidth: float
    flops: float


def measure_device(device: torch.device, name: str, dtype: torch.dtype, report: Report) -> Device:
    """Copy bandwidth and the rate of a large matrix product."""
    is_cuda = device.type == "cuda"
    copied = roofline.copy_bandwidth(device, roofline.COPY_BYTES if is_cuda else 1 << 26)
    rate = roofline.matmul_flops(device, dtype, roofline.MATMUL_SIZE if is_cuda else 512)
    report.add(
        "device",
        copy_tb_s=copied / 1e12,
        datasheet_tb_s=(roofline.datasheet_bandwidth(name) or 0) / 1e12,
        matmul_tflop_s=rate / 1e12,
    )
    return Device(device, name, copied, rate)


class Decode:
    """Decode steps at a context of CONTEXT tokens."""

    def __init__(self, model: Any, kernels: PagedKernels, device: Device, report: Report) -> None:
        self._model = model
        self._kernels = kernels
        self._device = device
        self._report = report
        self._bytes = roofline.decode_bytes(model.config.text_config, model.dtype)
        self.decoder = PagedDecoder(model, kernels, BATCHES[-1] * NUM_PAGES)
        for pages in (*self.decoder.keys, *self.decoder.values):
            pages.normal_()
        order = list(range(BATCHES[-1] * NUM_PAGES))
        random.Random(0).shuffle(order)
        self._pages = [order[i : i + NUM_PAGES] for i in range(0, len(order), NUM_PAGES)]

    def measure(self) -> None:
        """By graph and eager, by the chosen kernels and the plain ones; then a run of steps."""
        ways: list[tuple[str, PagedKernels, type[Recorder]]] = []
        if self._device.device.type == "cuda":
            ways.append((f"graph, {self._kernels.name}", self._kernels, CudaRecorder))
        ways.append((f"eager, {self._kernels.name}", self._kernels, EagerRecorder))
        if self._kernels is not PLAIN:
            ways.append(("graph, plain", PLAIN, CudaRecorder))
        logits: dict[str, torch.Tensor] = {}
        for way, kernels, recorder in ways:
            self.decoder.kernels = kernels
            start = time.perf_counter()
            graphs = self._graphs(kernels, recorder())
            self._report.add("recording", way=way, seconds=time.perf_counter() - start)
            for batch in BATCHES:
                rows = self._rows(batch, CONTEXT)
                step = seconds(
                    partial(_tokens, graphs, rows),
                    self._device.device,
                    repeats=20,
                )
                self._add(way, batch, step)
                if batch == BATCHES[1]:
                    logits[way] = graphs.replay(rows).logits.float()
                if way == ways[0][0] and batch in (BATCHES[0], BATCHES[-1]):
                    self._loop(way, graphs, batch)
        self.decoder.kernels = self._kernels
        first = logits.pop(ways[0][0])
        for way, others in logits.items():
            difference = float((first - others).abs().max() / first.abs().max())
            self._report.add(
                "same numbers", of=ways[0][0], against=way, share_of_largest_logit=difference
            )

    def _graphs(self, kernels: PagedKernels, recorder: Recorder) -> DecodeGraphs:
        graphs = DecodeGraphs(
            self.decoder.step,
            recorder,
            max_rows=BATCHES[-1],
            max_pages=WIDE_TABLE if kernels.can_graph else NUM_PAGES,
            page_tokens=PAGE_TOKENS,
            num_positions=1,
            suppressed=torch.tensor([], dtype=torch.long, device=self._device.device),
            device=self._device.device,
        )
        graphs.record()
        return graphs

    def _rows(self, batch: int, length: int, tokens: list[int] | None = None) -> list[DecodeRow]:
        held = tokens or [5] * batch
        return [DecodeRow(held[i], (length - 1,), self._pages[i], length) for i in range(batch)]

    def _add(self, way: str, batch: int, step: float) -> None:
        num_bytes = self._bytes.of_step(batch, CONTEXT)
        floor = num_bytes / self._device.bandwidth
        sheet = roofline.datasheet_bandwidth(self._device.name)
        self._report.add(
            f"decode at {CONTEXT} tokens",
            way=way,
            batch=batch,
            step_ms=step * 1e3,
            tokens_per_s=batch / step,
            floor_ms=floor * 1e3,
            share_of_floor=floor / step,
            share_of_datasheet=num_bytes / sheet / step if sheet else "",
        )

    def _loop(self, way: str, graphs: DecodeGraphs, batch: int) -> None:
        """Each token is read and is the next one's input, as in service."""
        tokens = [5] * batch
        start = time.perf_counter()
        for step in range(LOOP_STEPS):
            rows = self._rows(batch, CONTEXT + 1 + step, tokens)
            tokens = _tokens(graphs, rows)
        took = (time.perf_counter() - start) / LOOP_STEPS
        self._report.add(
            f"{LOOP_STEPS} steps in a row",
            way=way,
            batch=batch,
            step_ms=took * 1e3,
            tokens_per_s=batch / took,
        )


def _tokens(graphs: DecodeGraphs, rows: list[DecodeRow]) -> list[int]:
    """The best token of each row, on the host."""
    tokens: list[int] = graphs.replay(rows).greedy.tolist()
    return tokens


class Pictures:
    """A picture of the largest size, whole and split in five."""

    def __init__(self, model: Any, device: Device, report: Report) -> None:
        self._model = model
        self._device = device
        self._report = report
        vision = model.config.vision_config
        self._side, self._patch = vision.image_size, vision.patch_size
        half = self._side // 2 // self._patch * self._patch
        whole, quarter = (
            torch.randn(3, side, side, device=device.device, dtype=model.dtype)
            for side in (self._side, half)
        )
        self.whole = [whole]
        self.split = [quarter] * 4 + [whole]

    def flops(self, tiles: list[torch.Tensor]) -> float:
        """Operations of tiles at their true size."""
        patches = [t.shape[1] // self._patch * (t.shape[2] // self._patch) for t in tiles]
        return roofline.image_flops(self._model.config, patches)

    def encode(self, tiles: list[torch.Tensor]) -> torch.Tensor:
        """Features of tiles at their true size."""
        return encode_tiles(self._model, tiles)

    def measure(self) -> None:
        """Whole, split at true sizes, split and padded as the processor has it."""
        self._add("whole", 1, self.whole, lambda: self.encode(self.whole))
        self._add("split, true sizes", 1, self.split, lambda: self.encode(self.split))
        pixels, mask = self._padded()
        features = self._model.model.get_image_features
        self._add("split, padded", 1, self.whole * 5, lambda: features(pixels, mask))
        many = self.whole * 8
        self._add("whole, 8 pictures at once", 8, many, lambda: self.encode(many))

    def _add(self, way: str, num_pictures: int, tiles: list[torch.Tensor], run: Any) -> None:
        took = seconds(run, self._device.device, repeats=3)
        floor = self.flops(tiles) / self._device.flops
        self._report.add(
            "pictures",
            way=way,
            ms=took * 1e3,
            pictures_per_s=num_pictures / took,
            tflop=self.flops(tiles) / 1e12,
            floor_ms=floor * 1e3,
            share_of_floor=floor / took,
        )

    def _padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, len(self.split), 3, self._side, self._side)
        pixels = torch.zeros(shape, device=self._device.device, dtype=self._model.dtype)
        mask = torch.zeros(shape[:2] + shape[3:], device=self._device.device, dtype=torch.bool)
        for index, tile in enumerate(self.split):
            pixels[0, index, :, : tile.shape[1], : tile.shape[2]] = tile
            mask[0, index, : tile.shape[1], : tile.shape[2]] = True
        return pixels, mask


def measure_first_token(
    decoder: PagedDecoder, model: Any, pictures: Pictures, device: Device, report: Report
) -> None:
    """Picture and prompt to a token on the host, nobody else there."""
    text = model.config.text_config
    weights = roofline.decode_bytes(text, model.dtype).weights
    embedding = model.get_input_embeddings()

    def answer(tiles: list[torch.Tensor], num_words: int) -> int:
        words = embedding(torch.full((num_words,), 5, device=device.device))
        features = [pictures.encode(tiles)] if tiles else []
        return int(decoder.prefill(torch.cat([*features, words]), pages).argmax())

    latents = model.config.perceiver_config.resampler_n_latents
    pages = torch.arange(NUM_PAGES, device=device.device)
    for way, tiles, num_words in (
        (f"{CONTEXT} tokens of text", [], CONTEXT),
        ("whole picture", pictures.whole, TEXT_TOKENS),
        ("picture split in five, true sizes", pictures.split, TEXT_TOKENS),
    ):
        num_tokens = len(tiles) * latents + num_words
        took = seconds(
            partial(answer, tiles, num_words),
            device.device,
        )
        arithmetic = roofline.prompt_flops(text, num_tokens) / device.flops
        prompt = max(arithmetic, weights / device.bandwidth)
        floor = pictures.flops(tiles) / device.flops + prompt
        report.add(
            "first token",
            prompt=way,
            tokens=num_tokens,
            ms=took * 1e3,
            floor_ms=floor * 1e3,
            share_of_floor=floor / took,
        )
