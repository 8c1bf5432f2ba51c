"""Finding agents and tools, and the declarations that come with the project."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from agents import Agent, Runner
from agents.testing import assistant_message, function_call

from app.domain.errors import ConfigurationError
from app.domain.models.agents import AgentSpec
from app.infrastructure.providers.openai.registry.discovery import (
    discover_entry_points,
    discover_folder,
    discover_tools,
    load_objects,
)
from app.tools.get_current_time import get_current_time
from app.tools.get_weather import get_weather
from tests.unit.infrastructure.providers.openai.registry.building import Scripts, registry_of

SPEC = """
    from pathlib import Path
    from app.domain.models.agents import AgentSpec
    {name} = AgentSpec(key="{key}", description="D.", prompt_path=Path("{key}.md"))
"""


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(dedent(text), encoding="utf-8")


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "agents"  # the name of the SDK, and no package
    write(folder, "b.py", SPEC.format(name="ANY_NAME", key="bee"))
    write(
        folder,
        "a.py",
        """
        from .b import ANY_NAME
        from app.domain.models.agents import AgentSpec
        ONE = AgentSpec(key="one", description="D.", instructions="x")
        _TWO = AgentSpec(key="two", description="D.", instructions="x")
        """,
    )
    write(folder / "sub", "__init__.py", SPEC.format(name="SUB", key="sub"))
    write(folder, "notes.txt", "not a module")
    for given in (folder, str(folder)):
        found = discover_folder(given)
        assert [one.key for one in found] == ["bee", "one", "two", "sub"]
        assert [one.prompt_path for one in found] == [folder / "bee.md", None, None, folder / "sub" / "sub.md"]


def test_package(importable: Path) -> None:
    write(importable / "my_agents", "__init__.py", SPEC.format(name="A", key="a"))
    write(importable / "my_agents", "b.py", SPEC.format(name="B", key="b"))
    assert [one.key for one in discover_folder("my_agents")] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("broken.py", "import nowhere_to_be_found", r"broken\.py' cannot be imported \(ModuleNotFoundError: .*nowhere"),
        ("typo.py", "def f(:", r"typo\.py' cannot be imported \(SyntaxError"),
        ("raises.py", "1 / 0", r"raises\.py' cannot be imported \(ZeroDivisionError"),
        ("__init__.py", "1 / 0", r"__init__\.py' cannot be imported \(ZeroDivisionError"),
    ],
)
def test_import_errors_name_the_file(tmp_path: Path, name: str, text: str, expected: str) -> None:
    write(tmp_path / "x", name, text)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=expected):
            discover_folder(tmp_path / "x")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        discover_folder(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match=r"'no\.such\.package' cannot be imported"):
        discover_folder("no.such.package")
    with pytest.raises(ConfigurationError, match=r"'app\.agents\.demo' is a module, not a package"):
        discover_folder("app.agents.demo")


def test_load_objects(importable: Path) -> None:
    write(importable / "team", "__init__.py", "")
    write(
        importable / "team",
        "mine.py",
        """
        from pathlib import Path
        from agents import Agent
        from app.domain.models.agents import AgentSpec
        NATIVE = Agent(name="Native")
        SPEC = AgentSpec(key="spec", description="D.", prompt_path=Path("p.md"))
        ALL = [NATIVE, SPEC]
        class Box:
            inner = SPEC
        WRONG = [NATIVE, 3]
        """,
    )
    native, declared = load_objects(["team.mine:NATIVE", "team.mine:Box.inner"])
    assert isinstance(native, Agent) and native.name == "Native"
    assert isinstance(declared, AgentSpec) and declared.prompt_path == importable / "team" / "p.md"
    assert load_objects(["team.mine:ALL"]) == [native, declared]
    for reference, text in {
        "team.mine": "'package.module:attribute'",
        "team.mine:": "'package.module:attribute'",
        ":x": "'package.module:attribute'",
        "team.nothing:x": r"'team\.nothing' cannot be imported",
        "team.mine:Nothing": "has no 'Nothing'",
        "team.mine:WRONG": "leads to a int",
    }.items():
        with pytest.raises(ConfigurationError, match=text):
            load_objects([reference])


def test_entry_points(importable: Path) -> None:
    write(
        importable,
        "plug_in.py",
        "from agents import Agent\nONE = Agent(name='One')\nTWO = [Agent(name='Two')]\nBAD = 3\n",
    )
    write(importable / "plug_in-1.0.dist-info", "METADATA", "Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    write(
        importable / "plug_in-1.0.dist-info",
        "entry_points.txt",
        "[durable_agents.agents]\nb = plug_in:TWO\na = plug_in:ONE\n"
        "[bad.value]\nx = plug_in:BAD\n[bad.module]\nx = plug_out:ONE\n"
        "[bad.attribute]\nx = plug_in:NO\n[bad.form]\nx = plug_in\n",
    )
    importlib.invalidate_caches()
    assert [agent.name for agent in discover_entry_points() if isinstance(agent, Agent)] == ["One", "Two"]
    for group, text in {
        "bad.value": "entry point 'x' of plug-in' leads to a int",
        "bad.module": "entry point 'x' of plug-in' cannot be imported",
        "bad.attribute": "has no 'NO'",
        "bad.form": "names no object",
    }.items():
        with pytest.raises(ConfigurationError, match=text):
            discover_entry_points(group)
    assert discover_entry_points("nobody.offers.this") == []


TOOL = '''
    import json
    from textwrap import dedent

    async def {name}(a: int) -> str:
        """Do it."""
        return _help(a)

    def _help(a):
        return str(a)
'''


def test_tools(tmp_path: Path) -> None:
    write(tmp_path / "t", "first.py", TOOL.format(name="first"))
    write(
        tmp_path / "t",
        "second.py",
        "from .first import first\n\ndef second(b: str) -> str:\n    '''Sync.'''\n    return b\n",
    )
    write(tmp_path / "t", "_private.py", "def helper(x):\n    return x\n")
    tools = discover_tools(tmp_path / "t")
    assert sorted(tools) == ["first", "second"]
    assert tools["second"]("x") == "x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def bare(a: int) -> int:\n    return a\n", r"bad\.py': the tool 'bare' has no docstring"),
        (
            "def bare(a) -> int:\n    '''D.'''\n    return a\n",
            r"bad\.py': the parameter 'a' of the tool 'bare' has no type",
        ),
        ("def good(a: int) -> int:\n    '''D.'''\n    return a\n", r"good\.py': another file defines the tool 'good'"),
    ],
)
def test_tools_that_are_none(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path / "t", "good.py", "def good(a: int) -> int:\n    '''D.'''\n    return a\n")
    write(tmp_path / "t", "bad.py", text)
    with pytest.raises(ConfigurationError, match=expected):
        discover_tools(tmp_path / "t")


def sample_registry() -> Any:
    return registry_of(*discover_folder("app.agents"), tools=discover_tools("app.tools"), default_model="m")


def test_the_samples_build() -> None:
    registry = sample_registry()
    descriptor = registry.get(None).descriptor
    assert descriptor.key == "demo"
    assert descriptor.tools == ("get_weather", "get_current_time", "send_postcard")
    assert descriptor.handoffs == ("poet",)
    assert registry.get("poet").agent.instructions.startswith("You are a poet.")
    assert set(discover_tools("app.tools")) == {path.stem for path in Path("app/tools").glob("[a-z]*.py")}


async def test_the_samples_run() -> None:
    models = Scripts(
        m=[
            [function_call("get_weather", {"city": "Lisbon"}, call_id="c1")],
            [function_call("transfer_to_poet", {}, call_id="c2")],
            [assistant_message("A poem.")],
        ]
    )
    result = await Runner.run(sample_registry().get(None).agent, "A poem on the weather", run_config=models.config())
    assert result.final_output == "A poem."
    assert "Lisbon: " in str(models.seen("m", 2))
    assert "(UTC)." in (models.models["m"].calls[0].system_instructions or "")


async def test_weather_is_the_same_everywhere() -> None:
    assert await get_weather("Lisbon") == await get_weather(" Lisbon ")
    assert (await get_weather("Lisbon")).endswith("°C (sample data)")
    assert len({await get_weather(city) for city in ("Oslo", "Rome", "Lima", "Cairo")}) == 4
    assert await get_weather("  ") == "Name a city."


@pytest.mark.parametrize("zone", ["UTC", "utc", "Europe/Berlin"])
async def test_time(zone: str) -> None:
    assert f" {zone} (UTC+" in await get_current_time(zone)


@pytest.mark.parametrize("zone", ["", "Nowhere/At_All", "Europe", "../secret", "/etc/passwd", "a\0b"])
async def test_time_nowhere(zone: str) -> None:
    assert (await get_current_time(zone)).startswith("There is no time zone ")
