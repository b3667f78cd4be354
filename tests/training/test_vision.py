"""The oracle, the start of the model, the loss of the vision side, and going on after a stop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import vision
from training.draw.grid import STEPS
from training.model import LATENTS, TokenizerFacts, build_model
from training.muon import Muon, orthogonalised
from training.oracle import CONCEPTS, TOKEN_SCALE, decode, oracle, tables, token_rows
from training.vision_loss import Heads, _character_loss, losses
from training.vision_metrics import HeldOut, measure, read, score
from training.world import CHARACTER, CHARACTERS, GRID, Scene, Thing

FACTS = TokenizerFacts(80, 5, 3, 1, 2, concept_tokens={70: CONCEPTS.index("red")})


def some_labels() -> np.ndarray[Any, Any]:
    labels = np.zeros((2, GRID, GRID, 4), np.uint8)
    labels[0, 1, 1] = (2, 3, 1, 0)
    labels[0, 8, 5] = (5, 8, 2, 0)
    labels[1, 4, 2:5, CHARACTER] = (1, 18, 36)
    return labels


def test_tables_are_orthogonal_with_unit_mean_square() -> None:
    table = torch.cat(tables())
    expected = torch.eye(len(table)) * table.shape[1]
    torch.testing.assert_close(table @ table.T, expected, atol=1e-3, rtol=0)


def test_oracle_vectors_decode_to_their_labels() -> None:
    vectors = oracle(some_labels())
    assert vectors.shape == (2, LATENTS, 128)
    torch.testing.assert_close(vectors.square().mean(-1), torch.ones(2, LATENTS))
    np.testing.assert_array_equal(decode(vectors), some_labels())
    np.testing.assert_array_equal(decode(vectors + 0.3 * torch.randn(vectors.shape)), some_labels())


def test_oracle_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="labels must be"):
        oracle(np.zeros((1, 3, 3, 4), np.uint8))


def test_model_starts_the_same_and_copies_each_patch_into_its_latent() -> None:
    model, again = build_model(3, FACTS), build_model(3, FACTS)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    row = model.model.text_model.embed_tokens.weight[70]
    torch.testing.assert_close(row, token_rows()[CONCEPTS.index("red")])
    assert token_rows().square().mean().sqrt() == pytest.approx(TOKEN_SCALE, rel=1e-4)
    size = sum(parameter.numel() for parameter in model.parameters()) * 2
    assert size < 12e6
    connector = model.model.connector
    images = torch.rand(2, 1, 3, 80, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    patches = model.model.get_image_features(images).last_hidden_state
    layer = connector.perceiver_resampler.layers[0]
    latents = layer.input_latents_norm(connector.perceiver_resampler.latents)
    context = layer.input_context_norm(connector.modality_projection(patches[0]))
    query = layer.self_attn.q_proj(latents).view(LATENTS, 4, 32)
    key = layer.self_attn.k_proj(torch.cat([context, latents])).view(2 * LATENTS, 4, 32)
    attention = (torch.einsum("qhd,khd->hqk", query, key) / 32**0.5).softmax(-1)
    own = attention[:, range(LATENTS), range(LATENTS)]
    assert torch.equal(own, attention.amax(-1))
    assert own.mean() > 0.9


def test_a_character_near_a_border_may_stand_in_exactly_one_of_two_patches() -> None:
    kinds = len(CHARACTERS) + 1
    target = torch.zeros(1, LATENTS, dtype=torch.long)
    target[0, 44] = 7
    neighbours = torch.zeros(1, LATENTS, dtype=torch.long)
    neighbours[0, 44] = 1 + STEPS.index((0, 1))

    def loss_of(*places: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.zeros(1, LATENTS, kinds)
        logits[..., 0] = 20
        for place in places:
            logits[0, place, 7] = 40
        return _character_loss(logits.log_softmax(-1), target, neighbours)

    here, settled = loss_of(44)
    assert here < 1e-3
    assert torch.equal(settled, target)
    there, settled = loss_of(45)
    assert there < 1e-3
    assert settled[0, 45] == 7
    assert settled[0, 44] == 0
    assert loss_of(44, 45)[0] > 1
    assert loss_of()[0] > 1


def test_losses_are_small_for_ideal_latents() -> None:
    labels = torch.from_numpy(some_labels()).long()
    none = torch.zeros(2, GRID, GRID, dtype=torch.long)
    covers = torch.zeros(2, GRID, GRID, 2, dtype=torch.long)
    parts = losses(
        Heads(16),
        patches=torch.zeros(2, LATENTS, 16),
        latents=oracle(labels),
        labels=labels,
        neighbours=none,
        covers=covers,
    )
    assert parts["oracle"] < 1e-9
    assert all(torch.isfinite(part) for part in parts.values())


def test_score_counts_pictures_and_objects() -> None:
    scenes = (
        Scene(things=(Thing(1, 2, 0, 0),)),
        Scene(text="0Z", centres=((0.25, 0.45), (0.41, 0.45))),
    )
    grids = np.zeros((2, GRID, GRID, 4), np.uint8)
    grids[0, 1, 1] = (2, 3, 1, 0)
    grids[1, 4, 2, CHARACTER] = 1
    grids[1, 4, 4, CHARACTER] = 36
    assert score(grids, scenes) == {"each": 1.0, "whole": 1.0}
    assert read(grids[1]) == "0Z"
    grids[1, 4, 6, CHARACTER] = 5
    assert score(grids, scenes) == {"each": 1.0, "whole": 0.5}
    images = np.zeros((2, 80, 80, 3), np.uint8)
    figures = measure(lambda x: oracle(grids[: len(x)]), {"set": HeldOut(images, scenes)})
    assert figures == {"set each": 1.0, "set whole": 0.5}


def test_orthogonalised_has_singular_values_near_one() -> None:
    matrix = torch.randn(24, 10, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3
    with pytest.raises(ValueError, match="closure"):
        Muon([torch.nn.Parameter(matrix)], 0.1).step(lambda: 0.0)


def test_batches_go_on_where_they_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "BATCH", 2)
    monkeypatch.setattr(vision, "CHUNK", 6)
    monkeypatch.setattr(vision, "STEPS_A_CHUNK", 3)
    whole = list(vision.batches(4, 12, 0))
    rest = list(vision.batches(4, 12, 4))
    assert len(whole) == 6
    assert len(rest) == 2
    for batch, again in zip(whole[4:], rest, strict=True):
        for part, same in zip(batch, again, strict=True):
            np.testing.assert_array_equal(part, same)


def test_training_stops_and_goes_on_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "BATCH": 2,
        "CHUNK": 4,
        "STEPS_A_CHUNK": 2,
        "SAVE_EVERY": 2,
        "LOG_EVERY": 1,
        "MEASURE_EVERY": 4,
    }.items():
        monkeypatch.setattr(vision, name, value)
    vision.train(tmp_path / "once", 8, measured=1)

    class StoppedError(Exception):
        pass

    def stop_at_three(step: int, steps: int) -> float:
        if step == 2:
            raise StoppedError
        return rate(step, steps)

    rate = vision.learning_rate
    monkeypatch.setattr(vision, "learning_rate", stop_at_three)
    with pytest.raises(StoppedError):
        vision.train(tmp_path / "twice", 8, measured=1)
    monkeypatch.setattr(vision, "learning_rate", rate)
    vision.train(tmp_path / "twice", 8, measured=1)
    one, two = (tmp_path / name / "final.safetensors" for name in ("once", "twice"))
    assert one.read_bytes() == two.read_bytes()


def test_training_refuses_a_part_of_a_chunk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pictures must be a multiple"):
        vision.train(tmp_path, vision.CHUNK + 1)
