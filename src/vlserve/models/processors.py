"""Loads a folder's processor, for pictures alone and with Pillow's scaling.

Transformers takes torchvision for both where it is installed. Its pixels differ from Pillow's in
their last bits, it may be broken beside the torch that is there, and it would be another way for
every model to be served.
"""

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the model in `folder`, the same with torchvision installed as without.

    Raises OSError, ValueError or KeyError where Transformers does.
    """
    processor_class: Any = PROCESSOR_MAPPING[type(config)]
    loaded_by: Any = AutoProcessor
    if "video_processor" in processor_class.get_attributes():
        loaded_by = for_pictures(processor_class)
    return loaded_by.from_pretrained(folder, local_files_only=True, backend="pil")


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
