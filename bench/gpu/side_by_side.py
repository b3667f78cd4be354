"""vlserve and other servers in one table: python -m bench.gpu.side_by_side FOLDER.

Reads `gpu.json` and `peers.json` of FOLDER, and writes `side-by-side.md` there. What was not
measured has no number, and why is said below the tables.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from bench.gpu.peers import LMDEPLOY_TEXT, TRANSFORMERS, VLLM_PICTURES, VLLM_TEXT
from bench.gpu.report import line, shown

BATCHES: Final = (1, 8, 32, 64)
# Facts of which two runs must not differ.
SAME: Final = ("device", "driver", "torch", "cuda")
Rows = list[dict[str, Any]]
Figures = dict[int, float]


def side_by_side(own: dict[str, Any], peers: dict[str, Any]) -> str:
    """The page of two reports. Raises ValueError for reports of different devices or versions."""
    for name in SAME:
        if own["facts"][name] != peers["facts"][name]:
            raise ValueError(
                f"{name} is {own['facts'][name]} in gpu.json and {peers['facts'][name]} in"
                " peers.json: the two were not measured on one machine"
            )
    ours: dict[str, Rows] = own["sections"]
    theirs = _by_peer(peers["sections"].get("peers", []))
    lines = ["# vlserve beside other servers, on one device", ""]
    lines += [f"- {name}: {own['facts'][name]}" for name in (*SAME, "transformers", "triton")]
    lines += [f"- measured: {own['facts']['date']}, peers {peers['facts']['date']}"]
    lines += _decode(ours, theirs) + _pictures(ours, theirs) + _with_pictures(ours, theirs)
    lines += ["", "## What has no number", ""]
    troubles: Rows = peers["sections"].get("troubles", [])
    said = [f"- {row['peer']}: {shown(row['trouble'])}" for row in troubles]
    return "\n".join([*lines, *(said or ["- nothing"])]) + "\n"


def _by_peer(rows: Rows) -> dict[str, Rows]:
    """What each peer's script printed."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["peer"], []).append(json.loads(row["result"]))
    return found


def _decode(ours: dict[str, Rows], theirs: dict[str, Rows]) -> list[str]:
    steps = ours.get("decode at 400 tokens", [])
    first = steps[0]["way"] if steps else ""
    ways: list[tuple[str, Figures]] = [
        ("the roofline of a copy", _figures(steps, "batch", "floor_ms")),
        *(
            (f"vlserve, {way}", _figures([r for r in steps if r["way"] == way], "batch", "step_ms"))
            for way in dict.fromkeys(row["way"] for row in steps)
            if way == first or way.startswith("eager")
        ),
        *(
            (name, _figures(theirs.get(name, []), "B", "step_ms"))
            for name in (VLLM_TEXT, LMDEPLOY_TEXT, TRANSFORMERS)
        ),
    ]
    heading = "## A decode step at 400 tokens of context"
    milliseconds = _table(f"{heading}, ms", ways, lambda _, value: value)
    return milliseconds + _table(
        f"{heading}, tokens/s", ways, lambda batch, value: batch / value * 1e3
    )


def _pictures(ours: dict[str, Rows], theirs: dict[str, Rows]) -> list[str]:
    rows = [(f"vlserve, {row['way']}", row["ms"]) for row in ours.get("pictures", [])]
    rows += [
        (f"{TRANSFORMERS}, tiles of the whole size: {row['vision_tiles']}", row["ms"])
        for row in theirs.get(TRANSFORMERS, [])
        if "vision_tiles" in row
    ]
    lines = ["", "## A picture of 980 x 980 pixels through the tower, ms", ""]
    return [*lines, line(["way", "ms"]), line(["---"] * 2), *(line([a, shown(b)]) for a, b in rows)]


def _with_pictures(ours: dict[str, Rows], theirs: dict[str, Rows]) -> list[str]:
    engine = ours.get("through the engine", [])
    pictures = [row for row in engine if row["prompt"].startswith("picture")]
    others = theirs.get(VLLM_PICTURES, [])
    tokens: list[tuple[str, Figures]] = [
        ("vlserve, tokens/s of 128 each, asked without a pause",
         _figures(pictures, "clients", "tokens_per_s")),
        (f"{VLLM_PICTURES}, tokens/s of 145 each, asked at once",
         _figures(others, "B", "e2e_tok_s_145")),
        ("vlserve, first token, ms (median)", _figures(pictures, "clients", "first_token_p50_ms")),
        (f"{VLLM_PICTURES}, first token, ms (all of them)",
         {batch: s * 1e3 for batch, s in _figures(others, "B", "first_token_s").items()}),
    ]  # fmt: skip
    heading = "## Requests with a picture of 980 x 980 pixels, by how many are there"
    return _table(heading, tokens, lambda _, value: value)


def _figures(rows: Iterable[dict[str, Any]], by: str, name: str) -> Figures:
    return {row[by]: row[name] for row in rows if by in row and name in row}


def _table(
    heading: str, ways: list[tuple[str, Figures]], of: Callable[[int, float], float]
) -> list[str]:
    lines = ["", heading, "", line(["way", *map(str, BATCHES)]), line(["---"] * (1 + len(BATCHES)))]
    for way, figures in ways:
        cells = [shown(of(n, figures[n])) if n in figures else "" for n in BATCHES]
        lines.append(line([way, *cells]))
    return lines


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.side_by_side", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    reports = []
    for name in ("gpu.json", "peers.json"):
        if not (folder / name).is_file():
            sys.exit(f"no {name} in {folder}: it is written by python -m bench.gpu and its peers")
        reports.append(json.loads((folder / name).read_text()))
    try:
        page = side_by_side(*reports)
    except ValueError as error:
        sys.exit(str(error))
    (folder / "side-by-side.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
