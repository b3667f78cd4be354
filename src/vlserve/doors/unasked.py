"""What clients send without asking for anything by it: taken at every door that speaks JSON.

One rule: null and what is empty are as if they were left out, an option that is not served is
taken with the value that asks for nothing, and a few names are ignored whatever they say.
docs/openai.md lists them.
"""

from collections.abc import Mapping
from typing import Any, Final

# Of a request: who asks, and how an account is run.
IGNORED_OF_REQUEST: Final = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "parallel_tool_calls", "request_id",
    }
)  # fmt: skip
# Of a turn: what servers and client libraries write beside its content.
IGNORED_OF_TURN: Final = frozenset(
    {
        "name", "id", "status", "phase", "cache_control", "reasoning", "reasoning_content",
        "refusal", "annotations", "provider_specific_fields",
    }
)  # fmt: skip
# Of a part of a turn.
IGNORED_OF_PART: Final = frozenset({"id", "cache_control", "annotations", "logprobs", "uuid"})
# Of a schema, which is always held strictly.
IGNORED_OF_SCHEMA: Final = frozenset({"name", "description", "strict"})

# Options that are not served, with the values by which a client asks for nothing.
NOTHING: Final[Mapping[str, tuple[object, ...]]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "background": (False,),
    "best_of": (1,),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "echo": (False,),
    "effort": ("none",),
    "function_call": ("none", "auto"),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "tool_choice": ("none", "auto"),
    "truncation": ("disabled",),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
}
# Options that are switched on by an empty object.
_MEANT_EMPTY: Final = frozenset({"web_search_options"})
_MAX_DEPTH: Final = 4


def is_empty(value: object) -> bool:
    """Whether a value is null or holds nothing."""
    return value is None or value in ("", [], {})


def asks_nothing(name: str, value: object, depth: int = 0) -> bool:
    """Whether an option that is not served asks for nothing: by its own value, or as an object of
    which each option does."""
    if value is None or (is_empty(value) and name not in _MEANT_EMPTY):
        return True
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        if name in _MEANT_EMPTY or not value:
            return False
        return all(asks_nothing(str(key), its, depth + 1) for key, its in value.items())
    is_bool = isinstance(value, bool)  # 1.0 is 1, and true is not
    return any(value == its and is_bool == isinstance(its, bool) for its in NOTHING.get(name, ()))


def asked(said: Mapping[str, Any], served: Mapping[str, bool], ignored: frozenset[str]) -> Any:
    """What is left of an object when all is gone that asks for nothing. `served` are the names of
    its own fields, and whether each must be there."""
    return {
        name: value
        for name, value in said.items()
        if not (
            is_empty(value) and not served[name]
            if name in served
            else name in ignored or asks_nothing(name, value)
        )
    }
