"""Asks about a picture with one plain HTTP request and prints the answer."""

import argparse
import base64
import sys
from pathlib import Path

import requests


def main() -> None:
    """Ask once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Describe the image")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--server", default="http://localhost:8000")
    options = parser.parse_args()

    data = base64.b64encode(options.image.read_bytes()).decode()
    try:
        response = requests.post(
            f"{options.server}/process_image",
            json={"image_data": data, "prompt": options.prompt},
            timeout=60,
        )
    except requests.ConnectionError:
        sys.exit(f"no server answers at {options.server}")
    if not response.ok:
        sys.exit(response.json()["error"]["message"])
    print(response.json()["description"])


if __name__ == "__main__":
    main()
