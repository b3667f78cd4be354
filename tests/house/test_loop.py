"""The loop of someone who works here: nothing heavy is imported for a test that needs it not."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.loaded import load
from tests.tiers import LONG, ON_OLDEST, SLOW, Tier

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "transformers", "triton", "grpc", "playwright", "openai", "PIL", "av"]


def test_a_pure_test_file_imports_nothing_heavy() -> None:
    """What pytest imports for any file at all, and for one that tests nouns alone."""
    program = (
        "import sys, pytest; status = pytest.main(['tests/test_types.py']);"
        f"print('heavy:', sorted(set({HEAVY}) & set(sys.modules))); sys.exit(status)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.splitlines()[-1] == "heavy: []"


def test_torch_has_one_thread_in_tests() -> None:
    program = "import tests, torch; print(torch.get_num_threads())"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    assert said.stdout.strip() == b"1"


def test_busy_processes_are_busy_and_end() -> None:
    with load(2) as pids:
        before, began_s = sum(map(cpu_s, pids)), time.monotonic()
        while sum(map(cpu_s, pids)) - before < 0.2:
            assert time.monotonic() - began_s < 30
            time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def cpu_s(pid: int) -> float:
    """What a process has had of the cores, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(("status", "failed"), [(0, 0), (3, 2)])
def test_each_time_beside_a_load_is_told(status: int, failed: int) -> None:
    command = [sys.executable, "-c", f"raise SystemExit({status})"]
    said = subprocess.run(
        [sys.executable, "-m", "tests.loaded", "--load", "1", "--times", "2", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == min(failed, 1)
    assert len(re.findall(rf"^\d of 2 .*: status {status}, ", said.stdout, re.MULTILINE)) == 2
    assert said.stdout.endswith(f"2 times, {failed} failed\n")


def test_every_entry_of_a_tier_is_there() -> None:
    for entry in LONG + SLOW + ON_OLDEST:
        path, _, name = entry.partition("::")
        assert (ROOT / path).exists(), entry
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(), entry


def test_each_test_is_usual_or_long() -> None:
    file = "tests/house/test_docs.py"
    long, usual = f"{file}::test_commands_of_a_page_run[README.md]", f"{file}::test_names"
    assert [tier.value for tier in Tier if tier.holds(long)] == ["long", "all"]
    assert [tier.value for tier in Tier if tier.holds(usual)] == ["fast", "oldest", "usual", "all"]
    assert all(tier.reads(file) for tier in Tier)
    kill = "tests/describe/test_kill.py"
    assert [tier.value for tier in Tier if tier.reads(kill)] == ["long", "all"]
    assert [tier.value for tier in Tier if not tier.reads("tests/engines/")] == ["fast"]


def test_fast_tests_import_no_torch() -> None:
    program = (
        "import sys, pytest; pytest.main(['--tier', 'fast', '--collect-only', '-qq']);"
        "print('heavy:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "tests/test_types.py: " in said.stdout
    assert "tests/engines" not in said.stdout
    assert said.stdout.splitlines()[-1] == "heavy: []", said.stdout
