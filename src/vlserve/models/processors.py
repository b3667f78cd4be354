"""Loads a folder's processor, for pictures alone and with Pillow's scaling.

Transformers takes torchvision for both where it is installed. Its pixels differ from Pillow's in
their last bits, it may be broken beside the torch that is there, and it would be another way for
every model to be served.
"""

from pathlib import Path
from typing import Any

from transformers import ProcessorMixin
from transformers.models.auto.processing_auto import (
    PROCESSOR_MAPPING,
    processor_class_from_name,
)

from vlserve.models.weights import read_json


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the model in `folder`, the same with torchvision installed as without, of
    the class that its files name or else its family's.

    Raises OSError, ValueError or KeyError where Transformers does.
    """
    # Not by AutoProcessor: for a class that it does not know it asks its user on the terminal
    # whether to run the folder's code, whatever it was told of trust.
    processor_class: Any = _named(folder) or PROCESSOR_MAPPING[type(config)]
    if "video_processor" in processor_class.get_attributes():
        processor_class = for_pictures(processor_class)
    return processor_class.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, backend="pil"
    )


def _named(folder: Path) -> Any:
    """Transformers' own class of the name that the first file to say one says."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file() and (named := read_json(file).get("processor_class")):
            return processor_class_from_name(named)
    return None


def for_pictures(processor_class: Any) -> Any:
    """`processor_class` without its video part, which Transformers builds on torchvision alone.

    Its own constructor is called with `video_processor=None`.
    """

    class PicturesOnly(processor_class):  # type: ignore[misc]
        # SmolVLM's own looks at its video part even where there is no video.
        apply_chat_template = ProcessorMixin.apply_chat_template

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(
            cls, args: Any, processor_dict: dict[str, Any], **options: Any
        ) -> Any:
            settings = {**processor_dict, "video_processor": None}
            return super().from_args_and_dict(args, settings, **options)

    PicturesOnly.__name__ = processor_class.__name__
    return PicturesOnly
