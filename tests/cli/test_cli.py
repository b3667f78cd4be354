"""The command line, run as a user runs it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
ECHO = ("--engine.kind", "echo")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    """This process's, without settings of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLSERVE_")}
    return kept | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"} | variables


def vlserve(
    *arguments: str, cwd: Path, code: int = 0, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "vlserve", *arguments],
        cwd=cwd,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def shown(result: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Setting -> value and origin, out of what `vlserve settings` prints."""
    lines = [line.split() for line in result.stdout.splitlines()[1:] if line.strip()]
    return {line[0]: (line[1], line[2]) for line in lines}


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    http_port: int
    ready: str


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port, http_port = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vlserve", "serve", *ECHO),
            *("--grpc.port", str(port), "--http.port", str(http_port)),
        ],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("ready"):
            break
    try:
        yield Server(process, port, http_port, "".join(lines))
    finally:
        process.kill()
        process.communicate()


def test_the_ready_line_says_what_is_served_and_where(server: Server) -> None:
    for name in ("model", "device", "memory", "address", "a picture"):
        assert re.search(rf"^{name} +\S", server.ready, re.MULTILINE), server.ready
    assert f"grpc://127.0.0.1:{server.port}" in server.ready
    assert f"http://127.0.0.1:{server.http_port}" in server.ready
    assert "Describe the image" in server.ready
    assert re.search(
        r"^ready in \d+\.\d s \(imports .*, model .*, first answer .*\)", server.ready, re.M
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(server: Server, number: signal.Signals) -> None:
    began = time.monotonic()
    server.process.send_signal(number)
    _, err = server.process.communicate(timeout=10)
    assert server.process.returncode == 0
    assert err.strip().endswith("stopped")
    assert "Traceback" not in err
    assert time.monotonic() - began < 5


def test_the_version(tmp_path: Path) -> None:
    assert re.fullmatch(r"vlserve \d+\.\d+\.\d+\n", vlserve("--version", cwd=tmp_path).stdout)
    assert "Usage" in vlserve(cwd=tmp_path, code=2).stdout


def test_ask_finds_the_server_or_answers_here(server: Server, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    question = ("red.png", "red.png", "what is it?")
    running = vlserve("ask", *question, "--grpc.port", str(server.port), cwd=tmp_path)
    named = vlserve("ask", *question, "--server", f"localhost:{server.port}", cwd=tmp_path)
    here = vlserve("ask", *question, *ECHO, "--grpc.port", str(free_port()), cwd=tmp_path)
    assert running.stdout == named.stdout == here.stdout
    assert running.stdout.startswith("user said: what is it?; 2 pictures: 20x10 sha256")
    at = ("--grpc.port", str(server.port))
    described = vlserve("ask", "red.png", *at, cwd=tmp_path)
    assert described.stdout.startswith("user said: Describe the image; 1 picture: 20x10 sha256")
    scheme = vlserve("ask", "a", "--server", f"grpc://localhost:{server.port}", cwd=tmp_path)
    assert scheme.stdout == "user said: a\n"
    long = vlserve("ask", "a" * 5000, *at, cwd=tmp_path)  # no file has such a name
    assert long.stdout == f"user said: {'a' * 5000}\n"
    shorter = vlserve(
        "ask", "a b c d", "--max-tokens", "3", "--grpc.port", str(server.port), cwd=tmp_path
    )
    assert shorter.stdout == "user said: a\n"


def test_ask_says_what_is_wrong(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    at = ("--grpc.port", str(server.port))
    wrong = vlserve("ask", "text.png", "what?", *at, cwd=tmp_path, code=2)
    assert wrong.stderr.startswith("error: text.png: is not a picture")
    here = vlserve("ask", "text.png", "what?", *ECHO, "--grpc.port", "1", cwd=tmp_path, code=2)
    assert "text.png: is not a picture" in here.stderr
    missing = vlserve("ask", "none.png", "what?", *at, cwd=tmp_path, code=2)
    assert "none.png" in missing.stderr
    nobody = vlserve("ask", "what?", "--server", f"localhost:{free_port()}", cwd=tmp_path, code=2)
    assert "no server that serves answers at localhost" in nobody.stderr
    other = vlserve("ask", "what?", "--server", "http://localhost:8000", cwd=tmp_path, code=2)
    assert "--server http://localhost:8000: this command asks over gRPC" in other.stderr
    port = vlserve("serve", *ECHO, *at, cwd=tmp_path, code=2)
    assert f"error: cannot listen on 127.0.0.1:{server.port}" in port.stderr


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    (tmp_path / "vlserve.toml").write_text(
        '[engine]\nmax_running = 2\ndtype = "float16"\n[limits]\ntimeout_s = 5\n'
    )
    variables = {"VLSERVE_ENGINE__MAX_RUNNING": "3", "VLSERVE_LIMITS__TIMEOUT_S": "6.5"}
    found = shown(
        vlserve("settings", "--engine.max-running", "4", cwd=tmp_path, variables=variables)
    )
    assert found["engine.max_running"] == ("4", "flag")
    assert found["limits.timeout_s"] == ("6.5", "environment")
    assert found["engine.dtype"] == ('"float16"', "file")
    assert found["grpc.port"] == ("50051", "default")
    both = shown(vlserve("settings", "--engine.max_running", "4", cwd=tmp_path))
    assert both["engine.max_running"] == ("4", "flag")


@pytest.mark.parametrize(
    ("toml", "variables", "flags", "said"),
    [
        ("[engine]\nspeed = 9", {}, [], "engine.speed: there is no such setting (file)"),
        ("[machine]\nx = 1", {}, [], "machine: there is no such setting (file)"),
        ("[engine", {}, [], "vlserve.toml is not TOML, at end of document"),
        ("", {"VLSERVE_ENGINE__SPEED": "9"}, [], "VLSERVE_ENGINE__SPEED: there is no such setting"),
        ("", {"VLSERVE_SPEED": "9"}, [], "VLSERVE_SPEED: there is no such setting (environment)"),
        (
            "",
            {"VLSERVE_ENGINE": "9"},
            [],
            "engine holds settings: set each by its own name, such as engine.kind (environment)",
        ),
        (
            "",
            {"VLSERVE_GRPC__PORT": "x"},
            [],
            'grpc.port must be a whole number, not "x" (environment)',
        ),
        (
            "",
            {},
            ["--grpc.port", "70000"],
            "grpc.port must be at most 65535, not ",
        ),
        ("", {}, ["--engine.speed", "9"], "No such option: --engine.speed"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(
    tmp_path: Path, toml: str, variables: dict[str, str], flags: list[str], said: str
) -> None:
    (tmp_path / "vlserve.toml").write_text(toml)
    for command in ("settings", "serve"):
        result = vlserve(command, *flags, cwd=tmp_path, code=2, variables=variables)
        assert said in result.stderr, result.stderr


def test_models_are_listed_and_shown(tmp_path: Path) -> None:
    facts = json.loads(vlserve("models", "--json", cwd=tmp_path).stdout)
    assert len(facts) > 20
    embedded = next(fact for fact in facts if fact["name"] == "embedded")
    assert embedded["here"]["fits"]
    assert embedded["here"]["needed_bytes"] > embedded["weight_bytes"]
    for columns in ("60", "80", "120", "200"):
        listed = vlserve("models", cwd=tmp_path, variables={"COLUMNS": columns}).stdout
        assert max(map(len, listed.splitlines())) <= int(columns)
        assert not [fact["name"] for fact in facts if f"{fact['name']} " not in listed]
    assert not [fact["licence"] for fact in facts if fact["licence"].split()[0] not in listed]
    shown = vlserve("models", "idefics2-8b", cwd=tmp_path, variables={"COLUMNS": "60"}).stdout
    for said in ("HuggingFaceM4/idefics2-8b", "Apache-2.0", "8,402,768,112", "32,768 tokens"):
        assert said in shown
    assert shown.splitlines()[-1].startswith("vlserve serve --model.path FOLDER")
    (one,) = (fact for fact in facts if fact["name"] == "idefics2-8b")
    assert shown.splitlines()[-1] == one["command"]
    assert json.loads(vlserve("models", "idefics2-8b", "--json", cwd=tmp_path).stdout) == one


def test_an_unknown_model_is_refused_with_what_is_close(tmp_path: Path) -> None:
    result = vlserve("models", "idefics-8b", cwd=tmp_path, code=2)
    assert result.stderr.startswith("error: no model is known as 'idefics-8b'; close to it: ")
    assert "idefics2-8b" in result.stderr
    assert not result.stdout


COUNTING = (
    "import json, sys\nfrom vlserve.cli.main import main\n"
    "try:\n    main()\nexcept SystemExit:\n    pass\n"
    "print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
)


def run_counting(
    command: list[str], cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process whose last line is what it has imported."""
    return subprocess.run(
        [sys.executable, "-c", COUNTING, *command],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )


def test_help_and_settings_need_nothing_heavy(tmp_path: Path) -> None:
    for command in (
        ["settings"],
        ["--help"],
        ["serve", "--help"],
        ["bench", "--help"],
        ["describe", "--help"],
    ):
        result = run_counting(command, tmp_path)
        imported = set(json.loads(result.stdout.splitlines()[-1]))
        heavy = {"torch", "transformers", "grpc", "PIL", "openai", "matplotlib"}
        heavy |= {"httpx2", "pyarrow"}
        assert not imported & heavy, command


def test_help_is_short_and_has_defaults(tmp_path: Path) -> None:
    told = vlserve("serve", "--help", cwd=tmp_path, variables={"COLUMNS": "80"}).stdout
    assert len(told.splitlines()) < 30
    assert "`vlserve settings` lists all" in told
    for said in ("--model.path", "(embedded)", "--grpc.port", "(50051)"):
        assert said in told


def test_every_setting_is_a_flag_and_is_described(tmp_path: Path) -> None:
    printed = vlserve("settings", cwd=tmp_path)
    values = {name: value for name, (value, _) in shown(printed).items() if value != "unset"}
    assert len(values) > 10
    flags = [word for name, value in values.items() for word in (f"--{name}", value.strip('"'))]
    found = shown(vlserve("settings", *flags, cwd=tmp_path))
    assert {found[name] for name in values} == {(value, "flag") for value in values.values()}
    assert "width times height of a picture" in printed.stdout


def test_ask_takes_a_path_for_a_path(server: Server, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    (tmp_path / "photos").mkdir()
    at = ("--grpc.port", str(server.port))
    for word in ("nosuch.png", "./nosuch", "/nosuch/at/all", "IMG_1.HEIC", "~/clip.mov"):
        wrong = vlserve("ask", word, *at, cwd=tmp_path, code=2)
        assert f"{word}: no such file" in wrong.stderr, wrong.stderr
        assert not wrong.stdout
    folder = vlserve("ask", "./photos", *at, cwd=tmp_path, code=2)
    assert "./photos is a folder: `vlserve describe ./photos` asks about all" in folder.stderr
    for word in ("hello", "2.5", "and/or", "photos", "what is x.png"):
        assert vlserve("ask", word, *at, cwd=tmp_path).stdout == f"user said: {word}\n"


def test_ask_says_of_the_model_inside_that_it_is_a_demonstration(tmp_path: Path) -> None:
    at = ("--grpc.port", str(free_port()))
    for name, is_inside in (("embedded", True), ("my-own", False)):
        asked = vlserve("ask", "a", *ECHO, "--model.name", name, *at, cwd=tmp_path)
        assert asked.stdout == "user said: a\n"
        assert ("embedded is a demonstration model" in asked.stderr) is is_inside


def test_ask_reads_a_picture_from_stdin(server: Server, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    at = ("--grpc.port", str(server.port))
    for words in (["-"], ["-", "Describe the image"]):
        with (tmp_path / "red.png").open("rb") as picture:
            piped = subprocess.run(
                [sys.executable, "-m", "vlserve", "ask", *words, *at],
                cwd=tmp_path,
                env=environment(),
                stdin=picture,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        assert piped.stdout == vlserve("ask", "red.png", *at, cwd=tmp_path).stdout
    twice = vlserve("ask", "-", "-", "what?", *at, cwd=tmp_path, code=2)
    assert "write it once" in twice.stderr


def test_a_server_is_named_in_the_same_forms_everywhere(server: Server, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    body = {"model": "echo", "messages": [{"role": "user", "content": "a"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    grpc, http = f"127.0.0.1:{server.port}", f"127.0.0.1:{server.http_port}"
    for number, name in enumerate((grpc, f"grpc://{grpc}", f"grpc://{grpc}/")):
        vlserve("ask", "a", "--server", name, cwd=tmp_path)
        vlserve("describe", "red.png", "--server", name, "-o", f"{number}.jsonl", cwd=tmp_path)
    for number, name in enumerate((http, f"http://{http}", f"http://{http}/v1")):
        vlserve("batch", "in.jsonl", f"out{number}.jsonl", "--server", name, cwd=tmp_path)
    for command in (["ask", "a"], ["describe", "red.png"]):
        said = vlserve(*command, "--server", f"http://{http}", cwd=tmp_path, code=2).stderr
        assert "this command asks over gRPC: name that door, as HOST:PORT" in said
    out = ["batch", "in.jsonl", "o.jsonl"]
    said = vlserve(*out, "--server", f"grpc://{grpc}", cwd=tmp_path, code=2).stderr
    assert "this command asks over HTTP: name that door, as HOST:PORT" in said


FOLDERS = {
    "missing": ("/nowhere/at/all", "there is no such folder"),
    "name": ("smolvlm-256m", "is a name, not a folder: nothing is fetched"),
    "repository": ("org/model", "nothing is fetched"),
    "empty": ("empty", "config.json is missing"),
    "gguf": ("model.gguf", "GGUF is not served"),
}


@pytest.mark.parametrize(("path", "said"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_wrong_folder_is_told_before_anything_heavy_is_imported(
    path: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    begin_s = time.monotonic()
    result = run_counting(["serve", "--model.path", path], tmp_path)
    took_s = time.monotonic() - begin_s
    print(f"{path}: {took_s:.2f} s: {result.stderr.strip()}")
    assert result.stderr.startswith(f"error: model.path {path!r}")
    assert said in result.stderr
    imported = set(json.loads(result.stdout.splitlines()[-1]))
    assert not imported & {"torch", "transformers", "grpc", "fastapi"}


def test_serving_a_folder_on_the_home_folder_is_judged_there(tmp_path: Path) -> None:
    result = run_counting(["serve", "--model.path", "~/x"], tmp_path, HOME=str(tmp_path))
    assert "model.path '~/x': there is no such folder" in result.stderr


def test_an_interrupt_while_it_is_imported_is_no_traceback(tmp_path: Path) -> None:
    """At the moments that cannot be told apart by a clock: before, within and after imports."""
    program = (
        "import os, signal, sys\n"
        "at = sys.argv.pop(1)\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == at:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from vlserve.__main__ import main\n"
        "main()"
    )
    for module in ("vlserve.cli.main", "typer", "vlserve.settings", "vlserve.describe.errors"):
        result = subprocess.run(
            [sys.executable, "-c", program, module, "settings"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == -signal.SIGINT, (module, result.stderr)
        assert not result.stderr


def test_what_is_logged_has_its_time_and_level(tmp_path: Path) -> None:
    program = (
        "import logging, warnings\nfrom vlserve import logs\nlogs.to_stderr()\n"
        "logging.getLogger('vlserve.x').error('a fault')\nwarnings.warn('old')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=environment(),
        capture_output=True,
        text=True,
    )
    first, second = result.stderr.splitlines()[:2]
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(f"{stamp} ERROR a fault", first)
    assert re.match(f"{stamp} WARNING .*UserWarning: old", second)
