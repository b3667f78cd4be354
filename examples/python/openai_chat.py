"""Asks about a picture with the openai package and prints the answer as it comes."""

import argparse
import base64
import mimetypes
import sys
from pathlib import Path

from openai import APIError, OpenAI


def main() -> None:
    """Ask once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Describe the image")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--server", default="http://localhost:8000")
    options = parser.parse_args()

    kind = mimetypes.guess_type(options.image)[0] or "image/png"
    data = base64.b64encode(options.image.read_bytes()).decode()
    # The package wants a key; this server asks for none.
    client = OpenAI(base_url=f"{options.server}/v1", api_key="none")
    try:
        stream = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}},
                        {"type": "text", "text": options.prompt},
                    ],
                }
            ],
            stream=True,
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    except APIError as error:
        sys.exit(error.message)
    print()


if __name__ == "__main__":
    main()
