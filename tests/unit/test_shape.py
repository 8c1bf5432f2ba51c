"""The numbers we hold (style guide, last section), measured on the tree itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"
FILES = sorted(APP.rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 100
USUAL_FUNCTION_LINES = 50
MAX_PARAMETERS = 8
VAGUE = re.compile(r"(^|_)(utils?|helpers?|common|shared|misc|managers?)$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[Path, Function]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield path, node


def lines_of(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def name_of(path: Path, node: Function) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def test_files_are_short() -> None:
    long = [str(path.relative_to(ROOT)) for path in FILES if len(path.read_text().splitlines()) > MAX_FILE_LINES]
    assert long == []


def test_functions_are_short() -> None:
    lengths = {name_of(path, node): lines_of(node) for path, node in functions()}
    assert [name for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES] == []
    usual = sum(lines <= USUAL_FUNCTION_LINES for lines in lengths.values())
    assert usual / len(lengths) >= 0.95


def test_functions_take_few_parameters() -> None:
    # The SDK's Model interface has ten, and whoever implements it has them too.
    foreign = {"get_response", "stream_response"}
    many = []
    for path, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        own = [argument for argument in arguments if argument.arg not in {"self", "cls"}]
        if len(own) > MAX_PARAMETERS and node.name not in foreign:
            many.append(name_of(path, node))
    assert many == []


def test_everything_is_annotated() -> None:
    bare = [
        name_of(path, node)
        for path, node in functions()
        if (node.returns is None)
        or any(
            argument.annotation is None
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if argument.arg not in {"self", "cls"}
        )
    ]
    assert bare == []


def test_public_things_have_docstrings() -> None:
    documented = undocumented = 0
    for path in FILES:
        tree = ast.parse(path.read_text())
        bodies = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for body in bodies:
            for node in body.body:
                if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                    documented += ast.get_docstring(node) is not None
                    undocumented += ast.get_docstring(node) is None
    assert documented / (documented + undocumented) >= 0.95


def test_no_module_is_vague() -> None:
    named = [*FILES, *(path for path in APP.rglob("*") if path.is_dir())]
    assert [str(path.relative_to(ROOT)) for path in named if VAGUE.search(path.stem)] == []


def test_broad_excepts_are_rare_and_reasoned() -> None:
    source_lines = sum(len(path.read_text().splitlines()) for path in FILES)
    broad = []
    for path in FILES:
        lines = path.read_text().splitlines()
        broad += [
            (path, lines[node.lineno - 1])
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name) and node.type.id == "Exception"
        ]
    assert len(broad) <= max(1, source_lines / 1_000)
    assert [str(path) for path, line in broad if "#" not in line] == []


def test_tests_are_at_least_as_long_as_the_code() -> None:
    tests = sum(len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py"))
    assert tests >= sum(len(path.read_text().splitlines()) for path in FILES)


def test_a_run_takes_few_files() -> None:
    """Six files are the run's path; at most thirty of ours take part in one."""
    path = [
        "api/routes/chat.py",
        "services/runs.py",
        "infrastructure/providers/openai/runtime.py",
        "infrastructure/providers/openai/streaming.py",
        "api/sse.py",
        "domain/models/runs.py",
    ]
    assert [name for name in path if not (APP / name).is_file()] == []


@pytest.mark.parametrize("pattern", [r"--(extra-)?index-url", r"--find-links", r"/simple/?$", r'registry *= *"http'])
def test_no_registry_address_is_tracked(pattern: str) -> None:
    tracked = [*ROOT.glob("requirements/*.txt"), ROOT / "pyproject.toml", ROOT / "justfile", *ROOT.glob(".ci/*")]
    allowed = re.compile(r"--no-emit")
    hits = [
        f"{path.name}: {line}"
        for path in tracked
        for line in path.read_text().splitlines()
        if re.search(pattern, line) and not allowed.search(line)
    ]
    assert hits == []
