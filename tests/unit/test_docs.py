"""The guides say what is so."""

import os
import re
from itertools import chain
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from app.capture_settings import (
    BROWSER_VARIABLES,
    CaptureConfiguration,
    CaptureFile,
    load_capture,
)
from app.infrastructure.completions.assembly import build_destination
from app.settings import Settings, load_settings, report, report_section

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "APP_", "SCR_")) or name in {"DATABASE_URL", "HOST", "PORT", "LOG_LEVEL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_listed_with_its_default_and_effect() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", page, re.MULTILINE))
    told = {name: f"– | {effect}" for name, effect in BROWSER_VARIABLES.items()}
    capture = load_capture()
    own = [report_section(section) for section in (capture.capture, capture.monitoring)]
    for setting in chain(report(load_settings()), *own):
        default = "–" if setting.default in {"", "{}"} else f"`{setting.default}`"
        told[setting.variable] = f"{default} | {setting.description}"
    assert rows == told


def keys_of(model: type[BaseModel], place: str = "") -> dict[str, str]:
    """Return the dotted keys that the file may have, with their defaults as the guide writes them."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
        nested = next((one for one in inner if issubclass(one, BaseModel)), None)
        if nested is not None:
            keys |= keys_of(nested, f"{place}{name}{'[]' if get_origin(field.annotation) is tuple else ''}.")
        else:
            default = "" if field.is_required() else field.get_default(call_default_factory=True)
            text = ", ".join(default) if isinstance(default, tuple) else str(default)
            keys[f"{place}{name}"] = f"`{text}`" if default not in (None, "", (), {}) else "–"
    return keys


def test_every_key_of_the_file_is_listed_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z_.\[\]]+)` \| ([^|]+) \| .+ \|$", page, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == keys_of(CaptureFile)


def test_the_example_of_the_file_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "scr.yaml").write_text(example)
    monkeypatch.setenv("SCR_CONFIG", "scr.yaml")
    monkeypatch.setenv("BILLING_SECRET", "whsec_" + "Zm9v" * 8)
    told: CaptureConfiguration = load_capture()
    assert [build_destination(one).settings.name for one in told.destinations] == ["billing", "analytics", "audit"]


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
