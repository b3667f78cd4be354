"""Make the Python form of proto/vision.proto: `python scripts/proto.py [FOLDER]`.

Only the messages: the calls are so few that doors/grpc names them in a table of its own, which
keeps a generated file with a top-level import out of the package.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "src" / "vlserve" / "doors" / "grpc" / "pb"


def generate(folder: Path) -> None:
    """Write vision_pb2.py and vision_pb2.pyi. Raises CalledProcessError where protoc refuses."""
    proto = ROOT / "proto"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}"),
            *(f"--python_out={folder}", f"--pyi_out={folder}", str(proto / "vision.proto")),
        ],
        check=True,
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT)
