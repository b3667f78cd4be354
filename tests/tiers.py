"""Which tests each verb runs: what `make check` and `make test` leave to the next one.

An entry is a folder, a file, or a test of a file with all its parameters. Left out folders and
files are not even imported.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

# Kills, many tries, whole pages, training, browsers and other languages.
LONG: Final = (
    "tests/bench/test_doors.py",
    "tests/describe/test_kill.py",
    "tests/doors/grpc/test_embedded.py::test_two_hundred_clients_each_get_the_number_of_their_own_picture",
    "tests/doors/grpc/test_stubs.py",
    "tests/doors/playground/test_code.py",
    "tests/doors/playground/test_embedded.py",
    "tests/doors/playground/test_isolation.py",
    "tests/doors/playground/test_page.py",
    "tests/doors/playground/test_screen.py",
    "tests/doors/playground/test_video.py",
    "tests/engines/native/test_families.py::test_a_family_tried_hard",
    "tests/engines/native/test_guides.py::test_every_answer_fits_its_schema",
    "tests/engines/native/test_guides.py::test_every_answer_matches_its_expression",
    "tests/examples/",
    "tests/faults/",
    "tests/gpu/test_bench.py",
    "tests/gpu/test_compile.py",
    "tests/gpu/test_families.py::test_tokens_are_generates",
    "tests/house/test_docs.py::test_commands_of_a_page_run",
    "tests/house/test_docs.py::test_the_first_page_in_a_clean_shell",
    "tests/house/test_wheel.py",
    "tests/test_timings.py::test_of_a_crowd_nobody_took_longer_than_it_took",
    "tests/training/",
)
# Some seconds and more, or torch.
SLOW: Final = (
    "tests/bench/",
    "tests/cli/",
    "tests/contract/test_same_picture.py",
    "tests/describe/test_batch.py",
    "tests/describe/test_describe.py",
    "tests/doors/grpc/test_crowd.py",
    "tests/doors/grpc/test_embedded.py",
    "tests/doors/grpc/test_first_client.py",
    "tests/doors/grpc/test_leaving.py",
    "tests/doors/http/test_bodies.py",
    "tests/doors/http/test_timing.py",
    "tests/doors/kserve/test_stock.py",
    "tests/doors/openai/test_embedded.py",
    "tests/doors/test_logprobs.py",
    "tests/engines/",
    "tests/gpu/",
    "tests/house/test_imports.py",
    "tests/house/test_loop.py::test_fast_tests_import_no_torch",
    "tests/house/test_loop.py::test_torch_has_one_thread_in_tests",
    "tests/media/test_animations.py",
    "tests/media/test_decoders.py",
    "tests/media/test_fetch.py",
    "tests/media/test_hostile.py",
    "tests/media/test_hostile_videos.py",
    "tests/media/test_room.py",
    "tests/models/",
    "tests/test_app.py",
    "tests/test_timings.py",
)
# Not fast, but what stands on libraries that no fast test asks for.
ON_OLDEST: Final = (
    "tests/bench/test_command.py",
    "tests/cli/",
    "tests/describe/test_describe.py",
    "tests/engines/native/test_exact.py",
    "tests/engines/native/test_guide_check.py",
    "tests/engines/test_contract.py",
    "tests/models/test_idefics.py",
)


class Tier(StrEnum):
    """What is run: the fast ones; they and some on the oldest dependencies; they and the slow
    ones; the long ones alone; all."""

    FAST = "fast"
    OLDEST = "oldest"
    USUAL = "usual"
    LONG = "long"
    ALL = "all"

    def holds(self, node_id: str) -> bool:
        """Whether a test is run."""
        match self:
            case Tier.FAST:
                return not _is_in(node_id, LONG + SLOW)
            case Tier.OLDEST:
                return Tier.FAST.holds(node_id) or _is_in(node_id, ON_OLDEST)
            case Tier.USUAL:
                return not _is_in(node_id, LONG)
            case Tier.LONG:
                return _is_in(node_id, LONG)
        return True

    def reads(self, path: str) -> bool:
        """Whether a file, or a folder that ends with "/", may hold a test that is run."""
        match self:
            case Tier.FAST | Tier.USUAL:
                return self.holds(path)
            case Tier.OLDEST:
                return Tier.FAST.holds(path) or _may_be_in(path, ON_OLDEST)
            case Tier.LONG:
                return _may_be_in(path, LONG)
        return True


def _may_be_in(path: str, entries: Iterable[str]) -> bool:
    """Whether an entry is the path, holds it, or is inside."""
    return _is_in(path, entries) or any(entry.startswith(path) for entry in entries)


def _is_in(node_id: str, entries: Iterable[str]) -> bool:
    """Whether an entry is the node or holds it."""
    return any(
        node_id == entry
        or (node_id.startswith(entry) and (entry.endswith("/") or node_id[len(entry)] in ":["))
        for entry in entries
    )
