"""What a model's generation config asks of whoever picks its tokens."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeVar

from vlserve.errors import ServeError
from vlserve.models.errors import ModelError
from vlserve.types import GREEDY, GenerationDefaults, SamplingParams

Number = TypeVar("Number", int, float)
# What `generate` itself draws from where a config samples and does not say.
GENERATE_TOP_K: Final = 50
# Settings that change which token is picked and that are not served, with their harmless values.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "exponential_decay_length_penalty": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "remove_invalid_values": (None, False),
    "sequence_bias": (None,),
    "watermarking_config": (None,),
}
# And those that matter where tokens are drawn.
DRAWING_UNSUPPORTED: Final = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


@dataclass(frozen=True, slots=True)
class GenerationRules:
    """Which tokens end an answer and which may never be picked.

    `suppressed` holds at every step, `suppressed_first` at the first token only. A word of
    `bad_words` may not be completed: its last token is out when the others stand before it.
    `repetition_penalty` holds where a request asks for none, `drawing` where one leaves it to the
    model how tokens are drawn.
    """

    stop_token_ids: frozenset[int]
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    repetition_penalty: float = 1.0
    drawing: GenerationDefaults = GREEDY

    @classmethod
    def of(cls, config: Any) -> Self:
        """The rules of a Transformers GenerationConfig.

        Raises ModelError naming a setting that changes the answer and is not supported.
        """
        for name, harmless in UNSUPPORTED.items():
            if getattr(config, name, None) not in harmless:
                raise ModelError(f"the model's generation config sets {name}, which is not served")
        eos = config.eos_token_id
        stop = frozenset([] if eos is None else [eos] if isinstance(eos, int) else eos)
        words = [tuple(word) for word in config.bad_words_ids or ()]
        always = {word[0] for word in words if len(word) == 1} - stop
        return cls(
            stop_token_ids=stop,
            suppressed=tuple(sorted(always | set(config.suppress_tokens or ()))),
            suppressed_first=tuple(sorted(set(config.begin_suppress_tokens or ()))),
            bad_words=tuple(word for word in words if len(word) > 1),
            repetition_penalty=config.repetition_penalty or 1.0,
            drawing=_drawing(config),
        )

    @property
    def is_contextual(self) -> bool:
        """Whether `suppressed_after` can ever rule out a token."""
        return bool(self.suppressed_first or self.bad_words)

    def suppressed_after(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """The tokens ruled out here beyond `suppressed`: first token and unfinished bad words."""
        ruled_out = [] if answer else list(self.suppressed_first)
        for word in self.bad_words:
            needed = len(word) - 1
            before = [*prompt[-needed:], *answer][-needed:]
            if tuple(before) == word[:-1]:
                ruled_out.append(word[-1])
        return ruled_out


def _drawing(config: Any) -> GenerationDefaults:
    """As `generate` draws with this config: greedily, unless `do_sample` is set.

    Raises ModelError naming a setting that is out of bounds.
    """
    if not config.do_sample:
        return GREEDY
    for name, harmless in DRAWING_UNSUPPORTED.items():
        if getattr(config, name, None) not in (None, harmless):
            raise ModelError(f"the model's generation config sets {name}, which is not served")
    drawing = GenerationDefaults(
        temperature=_or(config.temperature, 1.0),
        top_p=_or(config.top_p, 1.0),
        top_k=_or(config.top_k, GENERATE_TOP_K),
        min_p=_or(config.min_p, 0.0),
    )
    try:
        SamplingParams(**asdict(drawing))
    except ServeError as error:
        raise ModelError(f"the model's generation config sets {error}") from None
    return drawing


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value
