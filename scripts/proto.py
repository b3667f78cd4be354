"""Make the Python form of proto/*.proto: `python scripts/proto.py [FOLDER]`.

Only the messages: the calls are so few that each door names them in a table of its own, which
keeps a generated file with a top-level import out of the package.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOORS = ROOT / "src" / "vlserve" / "doors"
# Where the form of each file is kept.
KEPT = {"vision": DOORS / "grpc" / "pb", "inference": DOORS / "kserve" / "pb"}


def generate(name: str, folder: Path) -> None:
    """Write NAME_pb2.py and NAME_pb2.pyi. Raises CalledProcessError where protoc refuses."""
    proto = ROOT / "proto"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}"),
            *(f"--python_out={folder}", f"--pyi_out={folder}", str(proto / f"{name}.proto")),
        ],
        check=True,
    )


if __name__ == "__main__":
    for each, kept in KEPT.items():
        generate(each, Path(sys.argv[1]) if len(sys.argv) > 1 else kept)
