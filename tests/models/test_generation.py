"""A generation config is honoured as `generate` does, or refused."""

import pytest
from transformers import GenerationConfig

from vlserve.models.errors import ModelError
from vlserve.models.generation import GENERATE_TOP_K, GenerationRules
from vlserve.types import GREEDY, GenerationDefaults


def rules(**settings: object) -> GenerationRules:
    return GenerationRules.of(GenerationConfig(**settings))  # type: ignore[no-untyped-call]


def test_stop_tokens_are_one_or_many_or_none() -> None:
    assert rules(eos_token_id=2).stop_token_ids == {2}
    assert rules(eos_token_id=[2, 6]).stop_token_ids == {2, 6}
    assert rules().stop_token_ids == frozenset()


def test_suppressed_tokens_but_never_an_end() -> None:
    found = rules(eos_token_id=2, bad_words_ids=[[2], [5]], suppress_tokens=[7])
    assert found.suppressed == (5, 7)
    assert not found.is_contextual


def test_a_repetition_penalty_is_the_models_own() -> None:
    assert rules(repetition_penalty=1.2).repetition_penalty == 1.2
    assert rules(repetition_penalty=None).repetition_penalty == 1.0


def test_drawing_is_as_generate_has_it() -> None:
    assert rules().drawing == rules(temperature=0.5, top_k=5).drawing == GREEDY
    assert rules(do_sample=True).drawing == GenerationDefaults(1.0, 1.0, 50, 0.0)
    said = rules(do_sample=True, temperature=0.5, top_p=0.9, top_k=0, min_p=0.1).drawing
    assert said == GenerationDefaults(0.5, 0.9, 0, 0.1)
    theirs = GenerationConfig._get_default_generation_params()
    assert theirs["top_k"] == GENERATE_TOP_K
    with pytest.raises(ModelError, match="temperature: must be between 0 and 2, not 3"):
        rules(do_sample=True, temperature=3.0)


def test_long_bad_words_and_first_tokens() -> None:
    found = rules(bad_words_ids=[[4, 5, 6]], begin_suppress_tokens=[9])
    assert found.suppressed_after([1, 4], []) == [9]
    assert found.suppressed_after([1, 4, 5], []) == [9, 6]
    assert found.suppressed_after([1, 4], [5]) == [6]
    assert found.suppressed_after([1], [4, 5, 6]) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("encoder_no_repeat_ngram_size", 2),
        ("encoder_repetition_penalty", 1.2),
        ("exponential_decay_length_penalty", (2, 1.1)),
        ("forced_bos_token_id", 1),
        ("forced_eos_token_id", 1),
        ("guidance_scale", 2.0),
        ("min_length", 3),
        ("min_new_tokens", 3),
        ("no_repeat_ngram_size", 3),
        ("num_beams", 2),
        ("remove_invalid_values", True),
        ("sequence_bias", [[[1], 1.0]]),
        ("watermarking_config", {"bias": 2.0}),
    ],
)
def test_what_is_not_served_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"sets {name}, which is not served"):
        rules(**{name: value})


@pytest.mark.parametrize("name", ["typical_p", "epsilon_cutoff", "eta_cutoff"])
def test_a_filter_that_is_not_served_is_refused_where_tokens_are_drawn(name: str) -> None:
    assert rules(**{name: 0.3}).drawing == GREEDY
    with pytest.raises(ModelError, match=name):
        rules(do_sample=True, **{name: 0.3})
