"""The guides say what is so."""

import os
import re
from pathlib import Path

import pytest

from app.settings import Settings, load_settings, report

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "APP_")) or name in {"DATABASE_URL", "HOST", "PORT", "LOG_LEVEL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_listed_with_its_default_and_effect() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", page, re.MULTILINE))
    told = {}
    for setting in report(load_settings()):
        default = "–" if setting.default in {"", "{}"} else f"`{setting.default}`"
        told[setting.variable] = f"{default} | {setting.description}"
    assert rows == told


def test_no_section_is_large() -> None:
    sections = [field.annotation for field in Settings.model_fields.values()]
    assert all(section is not None and len(section.model_fields) <= 15 for section in sections)


def test_the_examples_about_agents_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DEMO_DELAY_MS", "0")
    page = (ROOT / "docs" / "agents.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    # One module, as a reader would paste it; functions need a module to look their annotations up in.
    namespace: dict[str, object] = {"__name__": "examples"}
    for block in blocks:
        exec(compile(block, "docs/agents.md", "exec"), namespace)
    said = capsys.readouterr().out
    assert "run.completed" in said
    assert "Earlier you said: Where is order 17?" in said
