"""Pictures that were seen: their features, for whoever asks about them again."""

import threading
from collections import OrderedDict

from vlserve.models.prompt import PromptImage


class ImageCache:
    """The pictures used last, within a bound of `num_bytes`. Tenants share none. Safe to call from
    any thread."""

    def __init__(self, num_bytes: int) -> None:
        self._num_left = num_bytes
        self._images: OrderedDict[tuple[str, str], PromptImage] = OrderedDict()
        self._lock = threading.Lock()
        self.num_hits = 0
        self.num_misses = 0

    def get(self, tenant: str, key: str) -> PromptImage | None:
        """The picture, features included, or None."""
        with self._lock:
            image = self._images.get((tenant, key))
            if image is None:
                self.num_misses += 1
                return None
            self._images.move_to_end((tenant, key))
            self.num_hits += 1
            return image

    def put(self, tenant: str, image: PromptImage) -> None:
        """Keep a picture that has features; others go if there is no room for all."""
        with self._lock:
            self._forget((tenant, image.key))
            self._images[tenant, image.key] = image
            self._num_left -= _size(image)
            while self._num_left < 0:
                self._forget(next(iter(self._images)))

    def _forget(self, name: tuple[str, str]) -> None:
        image = self._images.pop(name, None)
        if image is not None:
            self._num_left += _size(image)


def _size(image: PromptImage) -> int:
    features = 0 if image.features is None else image.features.num_bytes
    return features + sum(array.nbytes for array in image.inputs.values()) + len(image.text)
