"""Peers: the models, the servers of ours, and what the report makes of a run."""

import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import models, peer_report, peers
from bench.peer_list import LITSERVE, LLAMA, PEERS, SEQUENTIAL, VLSERVE
from bench.peer_servers import llama_cpp
from bench.peer_servers.generate import Generator, collect
from bench.peer_servers.openai_door import Asked, Inbox
from vlserve.bench.report import Report, Spread
from vlserve.bench.workload import Workload

TINY: dict[str, dict[str, Any]] = {
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "vision_config": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 56,
        "patch_size": 14,
    },
    "perceiver_config": {
        "hidden_size": 64,
        "resampler_n_latents": 8,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 32,
        "num_key_value_heads": 2,
    },
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.small(TINY, tmp_path_factory.mktemp("peers") / "tiny")


def turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def test_static_batches_answer_as_one_at_a_time(tiny: Path) -> None:
    generator = Generator(tiny)
    chance = np.random.default_rng(0)
    texts = ["what is it", "is there a small red square near the edge of the picture", "where"]
    pictures = [[Image.fromarray(chance.integers(0, 256, (40, 30, 3), np.uint8))] for _ in texts]

    def answers(rows: list[int]) -> list[tuple[int, ...]]:
        inputs = generator.inputs([turn(texts[r]) for r in rows], [pictures[r] for r in rows])
        return list(zip(*generator.steps(inputs, 12), strict=True))

    alone = [answers([row])[0] for row in range(3)]
    assert answers([0, 1, 2]) == alone
    assert all(len(answer) == 12 for answer in alone), "nothing may end an answer early"
    assert len(set(alone)) == 3
    swapped = generator.inputs([turn(texts[0])], [pictures[1]])
    assert next(zip(*generator.steps(swapped, 12), strict=True)) != alone[0]
    print("3 answers, 3 the same in a batch; another picture, another answer")


def test_a_batch_is_whoever_waits() -> None:
    inbox: Inbox = queue.SimpleQueue()
    for number in range(5):
        inbox.put(Asked({"number": number}))
    assert [a.body["number"] for a in collect(inbox, 3, 0.01)] == [0, 1, 2]
    assert [a.body["number"] for a in collect(inbox, 3, 0.01)] == [3, 4]


def test_gguf_rows_turn_as_the_models_own() -> None:
    """Pairs beside each other under llama.cpp's turning score as halves under Transformers'."""
    heads, size, hidden = 2, 8, 5
    chance = np.random.default_rng(0)
    query, key = chance.standard_normal((2, heads * size, hidden))
    seen = chance.standard_normal(hidden)
    angle = 0.7 * 10.0 ** -np.arange(size // 2)
    cosine, sine = np.cos(angle), np.sin(angle)

    def halves(x: Any) -> Any:
        a, b = np.split(x.reshape(heads, size), 2, axis=1)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=1)

    def pairs(x: Any) -> Any:
        a, b = x.reshape(heads, size)[:, 0::2], x.reshape(heads, size)[:, 1::2]
        return np.stack([a * cosine - b * sine, b * cosine + a * sine], axis=-1).reshape(heads, -1)

    def scores(turn: Any, q: Any, k: Any) -> Any:
        return (turn(q @ seen) * (k @ seen).reshape(heads, size)).sum(1)

    turned = [llama_cpp._interleaved(weight, heads) for weight in (query, key)]
    assert np.allclose(scores(pairs, *turned), scores(halves, query, key))
    assert not np.allclose(scores(pairs, query, key), scores(halves, query, key))


def test_a_prompt_without_its_picture_is_as_long(tiny: Path) -> None:
    target = llama_cpp.TokenTarget(None, tiny)  # type: ignore[arg-type]  # asked of nobody
    request = Workload(image_sizes=((30, 40),)).request(0)
    text = request.messages[0].content[-1]
    assert isinstance(text, str)
    generator = Generator(tiny)
    inputs = generator.inputs([turn(text)], [[Image.new("RGB", (30, 40))]])
    wanted = inputs["input_ids"][0].tolist()
    prompt = target.prompt(request)
    image = target._image_id
    assert len(prompt) == len(wanted)
    assert image not in prompt
    assert [w for w in wanted if w != image] == [
        p for p, w in zip(prompt, wanted, strict=True) if w != image
    ]


def figures(speed: float, first_s: float, **errors: int) -> dict[str, Any]:
    wait = Spread(first_s, first_s, first_s, first_s, first_s, first_s)
    held = Report(1.0, 8, 8, errors, 8, 80, 80, speed, 1.0, wait, wait, wait, wait)
    return {name: getattr(held, name) for name in held.__slots__} | {
        name: {"p50": first_s, "p95": first_s} for name in ("ttft_s", "time_per_token_s")
    }


def cell(peer: str, load: str, speed: float, first_s: float = 1.0, **errors: int) -> dict[str, Any]:
    return {"peer": peer, "load": load, "figures": figures(speed, first_s, **errors)}


def result() -> dict[str, Any]:
    def about(name: str, state: str = "ran") -> dict[str, Any]:
        return {
            "name": name, "state": state, "version": "1", "note": "what it is", "threads": 2,
            "answers_as_generate": [7, 8], "lengths_as_asked": [8, 8],
        }  # fmt: skip

    many = "32 clients"
    model = {
        "model": "tiny",
        "peers": [
            about(SEQUENTIAL),
            about(LITSERVE),
            about(LLAMA, "not installed: llama-server"),
            about(VLSERVE),
        ],
        "arrivals_per_s": 2.0,
        "cells": [
            *(cell(SEQUENTIAL, many, speed) for speed in (9.0, 10.0, 50.0)),
            *(cell(LITSERVE, many, speed) for speed in (30.0, 31.0)),
            cell(VLSERVE, many, 41.0),
            cell(VLSERVE, many, 9999.0, overloaded=1),
            cell(SEQUENTIAL, "arrivals", 10.0, 8.0),
            cell(VLSERVE, "arrivals", 40.0, 0.79),
        ],
        "curve": [{"clients": 1, "figures": figures(12.0, 0.1)}],
    }
    facts = {
        "date": "2026-01-02T03:04:05", "commit": "abc", "device": "2 cores", "rounds": 3,
        "clients": [1, 32], "requests_per_client": {"tiny": 2}, "tokens": [8, 64],
        "image": "320x240", "arrivals": 32,
    }  # fmt: skip
    return {"facts": facts, "models": [model]}


def test_goals_are_told_from_medians() -> None:
    model = result()["models"][0]
    verdicts = {
        (goal.peer, goal.load, goal.at_most is not None): goal.verdict(model)
        for goal in peer_report.GOALS
    }
    ratio, verdict = verdicts[SEQUENTIAL, "32 clients", False]
    assert ratio == pytest.approx(4.1)
    assert verdict == "met"
    assert verdicts[LITSERVE, "32 clients", False][1] == "missed"
    assert verdicts[LLAMA, "32 clients", False] == (None, "not measured")
    ratio, verdict = verdicts[SEQUENTIAL, "arrivals", True]
    assert ratio == pytest.approx(0.09875)
    assert verdict == "met"


def test_who_did_not_run_is_listed(tmp_path: Path) -> None:
    page = peer_report.page(result(), "plot.svg")
    row = next(line for line in page.splitlines() if line.startswith("| llama.cpp"))
    assert "not installed: llama-server" in row
    assert "| sequential generate | 1 | 2 | - | 10.0 | 8.00 | 8 of 8 | 7 of 8 |" in page
    assert "9999" not in page, "a cell with failures counts for nothing"
    peer_report.plot(result(), tmp_path / "p.svg")
    assert "</svg>" in (tmp_path / "p.svg").read_text()


def test_a_run_without_the_peers_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for key in ("litserve", "mistralrs"):
        monkeypatch.setitem(PEERS, key, absent(key))
    arguments = ["--model", "embedded", "--peers", "litserve,mistralrs", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["peers", *arguments])
    peers.main()
    said = capsys.readouterr().out
    assert "LitServe: not installed: litserve" in said
    assert "mistral.rs: not installed: mistralrs" in said
    assert len(list(tmp_path.glob("peers-*.json"))) == 1
    monkeypatch.setattr(sys, "argv", ["peers", "--peers", "vllm"])
    with pytest.raises(SystemExit):
        peers.main()
    assert "vllm: none of" in capsys.readouterr().err


def absent(key: str) -> Any:
    """That peer, not installed whatever is installed."""
    peer = PEERS[key]
    return type(peer)(
        peer.key, peer.name, peer.package, peer.note, peer.command, peer.connect,
        lambda: peer.package,
    )  # fmt: skip
