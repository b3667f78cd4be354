"""Asks about a picture with LiteLLM and prints the answer as it comes."""

import argparse
import base64
import mimetypes
import sys
from pathlib import Path

import litellm


def main() -> None:
    """Ask once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Describe the image")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--server", default="http://localhost:8000")
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()

    kind = mimetypes.guess_type(options.image)[0] or "image/png"
    data = base64.b64encode(options.image.read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}},
        {"type": "text", "text": options.prompt},
    ]
    try:
        stream = litellm.completion(
            model=f"openai/{options.model}",
            api_base=f"{options.server}/v1",
            api_key="none",
            messages=[{"role": "user", "content": content}],
            stream=True,
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    except (litellm.APIError, litellm.BadRequestError) as error:
        sys.exit(error.message)
    print()


if __name__ == "__main__":
    main()
