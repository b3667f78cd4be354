"""Asks about a picture with LangChain and prints the answer as it comes."""

import argparse
import base64
import mimetypes
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai import APIError


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
    model = ChatOpenAI(model=options.model, base_url=f"{options.server}/v1", api_key="none")
    try:
        for chunk in model.stream([HumanMessage(content=content)]):
            print(chunk.text, end="", flush=True)
    except APIError as error:
        sys.exit(error.message)
    print()


if __name__ == "__main__":
    main()
