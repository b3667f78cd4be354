#!/usr/bin/env bash
# Measures one CUDA device and what other servers do on it: bench/gpu/run.sh PART OUT [PEERS]
#   own    vlserve: OUT/gpu.json, OUT/gpu.md
#   peers  vLLM, LMDeploy and Transformers by the scripts in PEERS: OUT/peers.json, OUT/peers.md
#   table  both side by side: OUT/side-by-side.md (needs no GPU)
# Each part ends within ten minutes. Needs Python with torch, Transformers and Triton; what else
# vlserve stands on is taken from the wheels in WHEELS, where that is set. PEERS may be packed: then
# it holds an unpack.py, and is unpacked beside OUT.
set -euo pipefail
part=$1 out=$(mkdir -p "$2" && cd "$2" && pwd) peers=${3:-}
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ -n "${WHEELS:-}" ]; then
  site=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
fi

case $part in
  own) "$python" -m bench.gpu "$out" ;;
  peers)
    if [ -e "$peers/unpack.py" ]; then
      unpacked=$(mktemp -d)
      "$python" "$peers/unpack.py" "$peers" "$unpacked"
      cp "$peers"/*.py "$unpacked"
      peers=$unpacked
    fi
    "$python" -m bench.gpu.peers "$peers" "$out" --seconds "${SECONDS_FOR_PEERS:-520}"
    ;;
  table) "$python" -m bench.gpu.side_by_side "$out" ;;
  *) echo "unknown part '$part': own, peers or table" >&2; exit 2 ;;
esac
