"""Draw docs/first-screen.svg from what `vlserve ask` answers: python scripts/first_screen.py."""

import base64
import html
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "src" / "vlserve" / "models" / "embedded" / "example.png"
PAGE = ROOT / "docs" / "first-screen.svg"
QUESTIONS = (
    "Describe the image",
    "How many shapes are there?",
    "What colour is the star?",
    "Is there a cross?",
)
WIDTH, LINE, TOP, LEFT = 1000, 30, 70, 400


def answer(question: str) -> str:
    """What the command prints for `question` about the bundled picture."""
    command = [Path(sys.executable).parent / "vlserve", "ask", PICTURE, question]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def drawing(answers: dict[str, str]) -> str:
    """The picture beside a terminal with questions and answers, as SVG."""
    rows = []
    for number, (question, said) in enumerate(answers.items()):
        y = TOP + number * 2.4 * LINE
        ask = html.escape(f'vlserve ask example.png "{question}"')
        rows.append(
            f'<text x="{LEFT}" y="{y}" class="ask"><tspan class="prompt">$ </tspan>{ask}</text>'
            f'<text x="{LEFT}" y="{y + LINE}" class="say">{html.escape(said)}</text>'
        )
    height = TOP + len(answers) * 2.4 * LINE
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    said = html.escape(" ".join(answers.values()))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">
<title>The example picture and the server's answers: {said}</title>
<style>
text {{ font: 16px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace }}
.ask {{ fill: #d8dee9 }} .prompt {{ fill: #88c0d0 }} .say {{ fill: #a3be8c; font-weight: 700 }}
</style>
<rect width="{WIDTH}" height="{height}" rx="12" fill="#2e3440"/>
<g fill="#4c566a"><circle cx="24" cy="22" r="6"/><circle cx="44" cy="22" r="6"/>\
<circle cx="64" cy="22" r="6"/></g>
<image x="24" y="52" width="340" height="{height - 76}" preserveAspectRatio="xMidYMid meet" \
href="data:image/png;base64,{data}"/>
{"".join(rows)}
</svg>
"""


if __name__ == "__main__":
    PAGE.write_text(drawing({question: answer(question) for question in QUESTIONS}))
