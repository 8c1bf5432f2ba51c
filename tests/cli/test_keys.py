"""Keys and projects on the command line, and a server that needs them."""

import http.client
import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

from tests.cli.programs import Program
from tests.cli.test_serve import serving


def test_a_key_is_created_shown_once_listed_and_revoked(program: Program) -> None:
    made = program.call("keys", "create")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}\n", made.out)
    assert re.fullmatch(r"key_[0-9a-f]{32} of organization default may read, write\.\n", made.err)
    asked = ("--organization", "acme", "--user", "anna", "--name", "ci", "--scope", "read", "--scope", "usage")
    more = ("--agent", "demo", "--agent", "poet", "--model", "small", "--expires-in-days", "30")
    full = program.call("keys", "create", *asked, *more, "--json").json
    assert full["value"].startswith("sk-")
    assert (full["organization"], full["user"], full["project"], full["name"]) == ("acme", "anna", None, "ci")
    assert (full["scopes"], full["agents"], full["models"]) == (["read", "usage"], ["demo", "poet"], ["small"])
    left = datetime.fromisoformat(full["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)

    listed = program.call("keys", "ls", "--json")
    assert [key["name"] for key in listed.json["data"]] == ["key", "ci"]
    assert listed.json["data"][1] == {name: value for name, value in full.items() if name != "value"}
    table = program.call("keys", "ls")
    for secret in (made.out.strip(), full["value"]):
        assert secret not in listed.out + table.out
        assert f"{secret[:7]}...{secret[-4:]}" in table.out
    assert len(program.call("keys", "ls", "--organization", "acme", "--json").json["data"]) == 1
    page = program.call("keys", "ls", "--limit", "1")
    assert page.err == f"There are more: --after {listed.json['data'][0]['id']}\n"
    assert "acme" in program.call("keys", "ls", "--after", listed.json["data"][0]["id"]).out

    stranger = program.call("keys", "revoke", full["id"], "--organization", "globex")
    assert (stranger.code, stranger.err) == (1, f"Error: There is no key {full['id']}.\n")
    assert program.call("keys", "revoke", full["id"]).out == f"revoked {full['id']}\n"
    both = program.call("keys", "revoke", "key_nope", full["id"])
    assert (both.code, both.out) == (1, f"revoked {full['id']}\n")
    assert len(program.call("keys", "ls", "--json").json["data"]) == 1
    rows = program.call("keys", "ls", "--revoked").out.splitlines()
    assert ["active" in rows[1], "revoked" in rows[2]] == [True, True]


def test_projects(program: Program) -> None:
    web = program.call("projects", "create", "web", "--organization", "acme").out.strip()
    assert re.fullmatch(r"proj_[0-9a-f]{32}", web)
    other = program.call("projects", "create", "other", "--organization", "acme", "--json").json
    key = program.call("keys", "create", "--organization", "acme", "--project", web, "--json").json
    assert key["project"] == web
    program.call("keys", "create", "--organization", "acme")
    assert len(program.call("keys", "ls", "--project", web, "--json").json["data"]) == 1
    listed = program.call("projects", "ls", "--organization", "acme", "--json").json
    assert ([one["name"] for one in listed["data"]], listed["has_more"]) == (["web", "other"], False)
    assert program.call("projects", "ls", "--json").json["data"] == []

    stranger = program.call("projects", "archive", web)
    assert (stranger.code, stranger.err) == (
        1,
        f"Error: There is no project {web} in the organization default.\n",
    )
    assert program.call("projects", "archive", web, "--organization", "acme").out == f"archived {web}\n"
    assert program.call("keys", "ls", "--project", web, "--json").json["data"] == []
    left = program.call("projects", "ls", "--organization", "acme", "--json").json["data"]
    assert [one["id"] for one in left] == [other["id"]]
    everything = program.call("projects", "ls", "--organization", "acme", "--archived").out
    assert web in everything
    late = program.call("keys", "create", "--organization", "acme", "--project", web)
    assert (late.code, late.out) == (2, "")


def test_keys_that_cannot_be(program: Program) -> None:
    for arguments, told in (
        (("--organization", "no spaces"), "An organization id is"),
        (("--scope", "root"), "Scopes are one or more of"),
        (("--agent", "nobody"), "There is no agent 'nobody'"),
        (("--project", "proj_nope"), "no such open project"),
        (("--expires-in-days", "0"), "A key lives for"),
        (("--name", ""), "'name' is 1 to 255"),
    ):
        ended = program.call("keys", "create", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert told in ended.err
        assert "Traceback" not in ended.err


def test_a_server_beyond_this_machine_needs_a_key(program: Program) -> None:
    refused = program.call("serve", "--port", "0", "--host", "0.0.0.0")
    assert (refused.code, refused.out) == (1, "")
    assert "durable-agents keys create" in refused.err.splitlines()[-1]

    secret = program.call("keys", "create").out.strip()
    with serving(program) as (_, address), closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        statuses = []
        for headers in ({}, {"authorization": "Bearer sk-wrong"}, {"authorization": f"Bearer {secret}"}):
            connection.request("GET", "/api/agents", headers=headers)
            with connection.getresponse() as reply:
                statuses.append(reply.status)
                body = json.load(reply)
    assert statuses == [401, 401, 200]
    assert [agent["key"] for agent in body["data"]] == ["demo", "poet"]
