import csv
import io
from pathlib import Path

from tests.cli.programs import Program


def test_agents_usage_and_conversations_of_one_run(program: Program, tmp_path: Path) -> None:
    run = program.call("run", "demo", "hello there", "--json", "--user", "ada").json

    agents = program.call("agents", "--json").json["data"]
    assert [(agent["key"], agent["default"], agent["last_seen"] is None) for agent in agents] == [
        ("demo", True, False),
        ("poet", False, True),
    ]
    table = program.call("agents").out.splitlines()
    assert table[0].split() == ["AGENT", "MODEL", "TOOLS", "HANDOFFS", "DEFAULT", "LAST", "SEEN", "DESCRIPTION"]
    assert table[1].startswith("demo   demo   get_weather, get_current_time")

    check_usage(program, run["usage"]["total_tokens"])
    check_conversations(program, run["conversation_id"], tmp_path)


def check_usage(program: Program, total_tokens: int) -> None:
    told = program.call("usage", "--by", "user", "--since", "1d", "--json").json
    assert told["by"] == "user"
    assert [(group["key"], group["total_tokens"]) for group in told["data"]] == [("ada", total_tokens)]
    assert (told["total"]["cost_usd"], told["total"]["unpriced_requests"]) == (None, 1)

    rows = list(csv.DictReader(io.StringIO(program.call("usage", "--csv").out)))
    assert [(row["key"], row["total_tokens"], row["cost_usd"]) for row in rows] == [("demo", str(total_tokens), "")]

    header, group, total = program.call("usage").out.splitlines()
    assert header.split()[-3:] == ["COST", "UNPRICED", "ESTIMATED"]
    assert group.split()[0] == "demo"
    assert total.split()[-3:] == ["–", "1", "0"]


def check_conversations(program: Program, conversation_id: str, folder: Path) -> None:
    listed = program.call("conversations", "ls", "--json").json
    assert [(found["id"], found["user_id"], found["title"]) for found in listed["data"]] == [
        (conversation_id, "ada", "hello there")
    ]
    hits = program.call("conversations", "search", "hello", "--user", "ada", "--json").json["data"]
    assert {hit["conversation_id"] for hit in hits} == {conversation_id}

    items = program.call("conversations", "export", conversation_id).json_lines
    assert items[0] == {"role": "user", "content": "hello there"}
    target = folder / "out.md"
    exported = program.call("conversations", "export", conversation_id, "--format", "markdown", "--output", str(target))
    assert (exported.code, exported.out, exported.err) == (0, "", f"{target}: 2 messages\n")
    assert target.read_text().startswith("# hello there\n")
    nowhere = program.call("conversations", "export", conversation_id, "--output", str(folder / "no" / "where"))
    assert (nowhere.code, nowhere.err.count("\n")) == (1, 1)

    unasked = program.call("conversations", "rm", conversation_id)
    assert (unasked.code, unasked.err) == (2, "Error: Nobody can be asked whether to delete. Add --yes.\n")
    stranger = program.call("conversations", "rm", conversation_id, "--yes", "--user", "eve")
    assert stranger.code == 1
    assert program.call("conversations", "rm", conversation_id, "--yes").out == f"deleted {conversation_id}\n"
    assert program.call("conversations", "ls", "--json").json == {"data": [], "has_more": False}


def test_doctor_masks_secrets_and_a_key_never_means_the_demo(program: Program) -> None:
    demo = program.call("doctor", "--offline", "--json")
    assert (demo.code, demo.json["ok"], demo.json["endpoint"]["kind"]) == (0, True, "demo")
    assert "APP_DEMO_DELAY_MS" in {
        entry["variable"] for entry in demo.json["settings"] if entry["source"] == "environment"
    }

    key = "sk-test-0123456789abcdef"
    with_key = program.call("doctor", "--offline", "--json", OPENAI_API_KEY=key)
    assert key not in with_key.out + with_key.err
    assert with_key.json["endpoint"]["kind"] == "endpoint"
    shown = next(entry for entry in with_key.json["settings"] if entry["variable"] == "OPENAI_API_KEY")
    assert (shown["value"], shown["source"]) == ("***cdef", "environment")

    # Port 9 is nobody's, so the endpoint is refused at once.
    base_url = "http://me:hidden1@127.0.0.1:9/v1?token=hidden2"
    away = program.call("doctor", OPENAI_API_KEY=key, OPENAI_BASE_URL=base_url)
    assert away.code == 1
    assert "Problem: The model's endpoint could not be reached." in away.err
    for secret in ("hidden1", "hidden2", key):
        assert secret not in away.out + away.err


def test_the_database_is_upgraded_and_checked(program: Program) -> None:
    before = program.call("db", "check", "--json")
    assert (before.code, before.json["ready"]) == (1, False)
    assert before.err.endswith("Run: durable-agents db upgrade\n")
    assert program.call("db", "upgrade").out.startswith("applied ")
    assert program.call("db", "upgrade").out == "up to date\n"
    after = program.call("db", "check", "--json")
    assert (after.code, after.json) == (0, {"ready": True, "database": "ok"})

    other = program.folder / "other.db"
    assert program.call("db", "upgrade", "--database", f"sqlite:///{other}").code == 0
    assert other.exists()


def test_help_and_version_load_neither_the_sdk_nor_the_database(program: Program) -> None:
    for arguments in (("version",), ("--help",)):
        told = program.run(*arguments, PYTHONPROFILEIMPORTTIME="1")
        loaded = {line.rpartition("|")[2].strip() for line in told.err.splitlines()}
        assert told.code == 0
        assert "app.cli.application" in loaded
        assert loaded.isdisjoint({"agents", "openai", "sqlalchemy", "app.bootstrap", "uvicorn", "fastapi"})
    assert program.call("version").out == "durable-agents 0.1.0\n"
