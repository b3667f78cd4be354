"""The model card: what the embedded model knows, measured, and what it does not know."""

from pathlib import Path
from typing import Any

from training.evaluate import markdown
from training.world import COLOURS, PLACES, SHAPES

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# The embedded model of vlserve

A small `Idefics2ForConditionalGeneration` ({parameters:.1f} M parameters, {megabytes:.1f} MB in
float16), trained from scratch on drawn pictures. It ships inside the package so that a fresh
clone, a machine without a network and a test have a real vision-language model whose answers can
be checked. It is no general assistant.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "src/vlserve/models/embedded"
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
```

## What it knows
- Shapes: {shapes}; one to three in a picture, or none.
- Colours: {colours}. Sizes: small, large (about a fifth and a third of the shorter side).
- Places: {places}.
- Printed text on one line: 1 to 4 digits or 1 to 6 upper-case letters.
- Plain, graded and noisy grounds; pictures of any size, up to about 1 to 3 in shape.

| ask | answer |
|---|---|
| Describe the image | a large red circle at the top left and a small blue star at the bottom. |
| the same of printed text | the text "HELLO". |
| the same of an empty ground | an empty picture. |
| What colour is the star? What shape is at the top left? What size is it? | blue, circle, large |
| Where is the blue star? | at the bottom |
| How many shapes (circles, red shapes) are there? | 2 |
| Is the star left or right of the circle? Above or below? | right, below |
| Is there a red star? Is the circle red? Is there any text? | no, yes, no |
| What is at the top left? | a large red circle |
| What is written? What number is this? | 4821 |
| Two pictures: Which picture has more shapes? | the first, the second, the same |
| Two pictures: Which picture has a star? | the first, the second, both, neither |
| Two pictures: How many shapes are there in both? What is in the second picture? | 5, ... |
| about what is not there | There is no star. There is nothing at the top left. There is no text. |

Questions are lower or mixed case, with or without a question mark; British and American spelling.
The pictures of a message stand before its words (the chat template sees to it).

## Measured
{table}
Every picture is drawn from a seed that training never used, with sides of 64 to 800 pixels. The
phrasings of the second column are in `training/held_out.py`. The unseen fonts are
Lato and Hanken Grotesk. The unseen renderer is resvg, at 200 to 800 pixels. In 'second question'
the model answers a first question itself and then another about the same picture. Run it again
with `make eval-model`.

## What it does not know
- Anything but the above: photographs, other shapes and colours, lower-case print, several lines.
  It answers all the same, and wrongly.
- A question that fits two shapes ('what colour is the circle?' with two circles) gets either.
- Questions that are not about the picture; sampling at a high temperature.
- It sees the whole picture at 80 x 80 pixels: print lower than a tenth of the picture is lost.

## How it was made
`make model`, on 2 CPU cores, without a GPU: see `training/` and the curves in
`docs/embedded-model.svg`. The vision side learned from labels to put a known vector for what is
there into each of its 100 latents; the text side learned the questions on such vectors; then both
were plugged together and went on learning on drawn pictures. No other weights, pictures or texts
went into it. {notes}

Licence: Apache-2.0.
"""


def write_card(folder: Path, result: dict[str, Any], notes: str = "") -> None:
    """Write README.md of the model in `folder` around the figures of `evaluate`.

    `notes` say where the making of these very weights differed from one run of the pipeline.
    """
    size = (folder / "model.safetensors").stat().st_size
    card = _CARD.format(
        parameters=size / 2e6,
        megabytes=size / 1e6,
        shapes=", ".join(SHAPES),
        colours=", ".join(COLOURS),
        places=", ".join(PLACES),
        table=markdown(result),
        notes=notes,
    )
    (folder / "README.md").write_text(card)
