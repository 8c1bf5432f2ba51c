import asyncio

from tests.cli.programs import Program
from tests.databases import PostgresServer


def test_a_schema_that_is_not_upgraded_is_refused_with_what_to_do(
    program: Program, postgres_server: PostgresServer
) -> None:
    name = "command_line"
    asyncio.run(postgres_server.execute(f"CREATE DATABASE {name}"))
    try:
        url = postgres_server.url(name)
        refused = program.call("agents", "--database", url)
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith("Error: The database schema is at revision none")
        assert refused.err.endswith("run durable-agents db upgrade\n")

        finding = program.call("doctor", "--offline", "--json", "--database", url)
        assert finding.code == 1
        assert finding.json["problems"][0].endswith("Run: durable-agents db upgrade")

        assert program.call("db", "upgrade", "--database", url).code == 0
        assert program.call("agents", "--database", url).code == 0
    finally:
        asyncio.run(postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)"))
