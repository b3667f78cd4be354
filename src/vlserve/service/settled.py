"""What a request's caller left to the server: said by the model, and by the limits."""

from dataclasses import replace
from typing import Final

from vlserve.engines.base import EngineInfo
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest

_DRAWN: Final = 1.0  # temperature of several answers where nothing else says one, as OpenAI has it


def settled(request: ChatRequest, info: EngineInfo, limits: LimitSettings) -> ChatRequest:
    """The request as it is answered. What is left to the model is as its generation configuration
    says; several answers are drawn even where that is greedy, for they would be one. A longer
    answer than `limits.max_new_tokens` is cut to it, as the engine cuts it to the context.
    """
    sampling = request.sampling
    values = {name: getattr(info.generation, name) for name in request.left_to_model}
    if sampling.n > 1 and values.get("temperature") == 0:
        values["temperature"] = _DRAWN
    max_tokens = min(sampling.max_tokens, limits.max_new_tokens)
    return replace(
        request,
        sampling=replace(
            sampling,
            max_tokens=max_tokens,
            min_tokens=min(sampling.min_tokens, max_tokens),
            **values,
        ),
        left_to_model=frozenset(),
    )
