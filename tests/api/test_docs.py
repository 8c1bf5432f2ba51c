"""The page that shows the API loads everything from here."""

import re
from importlib import resources

from tests.api.serving import Served


async def test_the_page_and_all_it_loads(demo: Served) -> None:
    page = await demo.http.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = [name for name in re.findall(r'(?:src|href)="([^"]+)"', page.text) if not name.startswith("data:")]
    assert len(loaded) == 4
    for name in loaded:
        assert (await demo.http.get(f"/{name}")).status_code == 200, name
    assert (await demo.http.get("/docs/LICENSE")).status_code == 404
    assert (await demo.http.get("/docs/..%2f__init__.py")).status_code == 404


def test_its_own_files_name_no_other_host() -> None:
    folder = resources.files("app.ui") / "swagger"
    for name in ("docs.html", "docs.js", "swagger-ui.css"):
        assert not re.search(r"url\(['\"]?https?:|(?:src|href)=['\"]https?:|@import", (folder / name).read_text()), name


async def test_it_shows_what_is_described(demo: Served) -> None:
    script = (await demo.http.get("/docs/docs.js")).text
    assert 'url: "openapi.json"' in script
    assert (await demo.http.get("/openapi.json")).json()["openapi"].startswith("3.")
