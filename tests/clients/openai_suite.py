"""Run openai-python's own tests of the routes that we have against a running server of ours.

    python -m tests.clients.openai_suite path/to/openai-3.52.0 [--model demo] [--postgresql] [pytest arguments]

The client's wheel comes without its tests; its source distribution has them. They are copied to a temporary folder and
run there by another pytest with `openai_suite_plugin` (see there for what it puts in and how it judges), the client
validating every reply strictly wherever the suite has it so. Once per model: an agent, and a model of the upstream.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tests.clients.server import Address, empty_database, running

SUITES = (
    "chat/test_completions.py",
    "chat/completions/test_messages.py",
    "responses/test_input_items.py",
    "responses/test_input_tokens.py",
    "test_responses.py",
    "conversations/test_items.py",
    "test_conversations.py",
    "test_models.py",
    "test_embeddings.py",
)
MODELS = ("demo", "gpt-4.1-mini")
OUTCOMES = ("passed", "passed without", "not offered", "failed")


def main() -> int:
    """Run the suites with each model and print what came out; 1 when a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="an unpacked source tree of openai, the installed version")
    parser.add_argument("--model", action="append", help="instead of an agent and an upstream model")
    parser.add_argument("--postgresql", action="store_true", help="two servers on PostgreSQL, not one on SQLite")
    options, pytest_arguments = parser.parse_known_args()
    tests = options.source / "tests"
    if missing := [suite for suite in SUITES if not (tests / "api_resources" / suite).is_file()]:
        parser.error(f"{tests / 'api_resources'} has no {' and no '.join(missing)}")
    failed = False
    kind: Literal["sqlite", "postgresql"] = "postgresql" if options.postgresql else "sqlite"
    with tempfile.TemporaryDirectory(prefix="openai-suite-") as name, empty_database(kind) as database:
        folder = Path(name)
        shutil.copytree(tests, folder / "tests")
        shutil.copy(options.source / "pyproject.toml", folder)
        with running(folder, database_url=database, processes=2 if database else 1) as address:
            for model in options.model or MODELS:
                told = _run(folder, address, model, pytest_arguments)
                print(_report(model, told))
                failed |= not told or any(test["outcome"] == "failed" for test in told)
            if failed:
                _print_logs(folder)
    return int(failed)


def _run(folder: Path, address: Address, model: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Run all suites; gives what the plugin wrote about each test."""
    report = folder / "report.json"
    report.write_text("[]")
    # The folder comes first: `tests` must be the client's there.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parent)]),
        "TEST_API_BASE_URL": f"{address.base_url}/v1",
        "SUITE_API_KEY": address.api_key,
        "SUITE_MODEL": model,
        "SUITE_REPORT": str(report),
    }
    without = [] if find_spec("httpx_aiohttp") else ["-k", "not aiohttp"]
    command = [sys.executable, "-m", "pytest", "-p", "openai_suite_plugin", "-p", "no:cacheprovider", "-n", "0"]
    files = [f"tests/api_resources/{suite}" for suite in SUITES]
    # It is the report that counts: a test that the plugin excuses fails in pytest's eyes.
    subprocess.run(
        [*command, "-q", "--tb=short", *without, *files, *arguments], cwd=folder, env=environment, check=False
    )
    told: list[dict[str, Any]] = json.loads(report.read_text())
    return told


def _report(model: str, told: list[dict[str, Any]]) -> str:
    """Return the tests by file and outcome, and what was refused."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    refused: defaultdict[str, set[str]] = defaultdict(set)
    offered: defaultdict[str, set[str]] = defaultdict(set)
    for test in told:
        counts[test["file"]][test["outcome"]] += 1
        for request, name in test["refused"]:
            refused[request].add(name)
        for request in test["not_offered"]:
            offered[test["file"]].add(request)
    lines = [f"\nmodel {model}", f"{'':36}" + "".join(f"{outcome:>16}" for outcome in OUTCOMES)]
    total: Counter[str] = Counter()
    for file, count in counts.items():
        lines.append(f"{file:36}" + "".join(f"{count[outcome]:>16}" for outcome in OUTCOMES))
        total += count
    lines.append(f"{'all':36}" + "".join(f"{total[outcome]:>16}" for outcome in OUTCOMES))
    lines += [f"refused by name, {request}: {', '.join(sorted(names))}" for request, names in sorted(refused.items())]
    lines += [f"not offered: {', '.join(sorted(requests))}" for requests in offered.values()]
    lines += [f"failed: {test['test']}: {test['why']}" for test in told if test["outcome"] == "failed"]
    return "\n".join(lines)


def _print_logs(folder: Path) -> None:
    for log in sorted(folder.glob("server-*.log")):
        print(f"--- {log.name}, its errors ---")
        print("".join(line for line in log.read_text().splitlines(keepends=True) if "error" in line.lower())[-5000:])


if __name__ == "__main__":
    sys.exit(main())
