"""The page asks nothing of any machine but its own server."""

import pytest
from playwright.async_api import Page, Route

from tests.doors.playground.browser import Visit
from tests.doors.playground.live import served
from tests.scripted import ScriptedEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")
OUTSIDE = "http://outside.example/asset.js"


async def whole_trip(visit: Visit) -> None:
    await visit.open()
    await visit.page.get_by_role("button", name="Use the example picture").click()
    await visit.pictures(1)
    await visit.ask("first")
    await visit.ask("second")
    await visit.copied("curl")


async def test_no_request_leaves_the_machine(page: Page) -> None:
    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        await whole_trip(visit)
        print(f"tried {len(visit.requests)}, held {len(visit.requests) - len(visit.leaving())}")
        assert len(visit.requests) > 10
        assert not visit.leaving()
        assert not visit.problems


@pytest.mark.parametrize("has_policy", [False, True])
async def test_an_outside_asset_is_seen_and_the_policy_blocks_it(
    page: Page, *, has_policy: bool
) -> None:
    """The control: with such an asset in the page the test above would fail."""

    async def spoiled(route: Route) -> None:
        response = await route.fetch()
        text = (await response.text()).replace(
            "</head>", f'<script src="{OUTSIDE}"></script></head>'
        )
        headers = dict(response.headers)
        assert "content-security-policy" in headers
        if not has_policy:
            del headers["content-security-policy"]
        await route.fulfill(response=response, body=text, headers=headers)

    async with served(ScriptedEngine()) as house:
        visit = Visit(page, house.url)
        violations: list[str] = []
        page.on("console", lambda message: violations.append(message.text))
        await page.route(f"{house.url}/", spoiled)
        await whole_trip(visit)
        is_blocked = any("Content Security Policy" in text for text in violations)
        assert is_blocked == has_policy, violations
        if not has_policy:
            assert visit.leaving() == [OUTSIDE]
