"""Loads a folder's processor, for pictures alone where the machine has nothing for video."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the model in `folder`.

    Raises OSError, ValueError or KeyError where Transformers does.
    """
    processor_class: Any = PROCESSOR_MAPPING[type(config)]
    if find_spec("torchvision") or "video_processor" not in processor_class.get_attributes():
        return AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
    return for_pictures(processor_class).from_pretrained(folder, local_files_only=True)


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
