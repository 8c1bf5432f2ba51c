import pytest
from pydantic import SecretStr

from app.settings import load_settings, masked, report


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (SecretStr("sk-short"), "***"),
        (SecretStr("sk-test-0123456789"), "***6789"),
        (SecretStr("sqlite:///data.db"), "sqlite:///data.db"),
        (SecretStr("postgresql://me:p@ss@host/db?password=x"), "postgresql://***@host/db?***"),
        ("http://me:pw@host/v1", "http://***@host/v1"),
    ],
)
def test_secrets_are_masked(value: object, shown: str) -> None:
    assert masked(value) == shown


def test_every_name_of_a_setting_counts_as_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG", "org_1")
    monkeypatch.setenv("APP_MODELS__FAST", "gpt-5.4-nano")
    sources = {entry.variable: entry.source for entry in report(load_settings(runs={"max_turns": 3}))}
    assert (sources["OPENAI_ORG_ID"], sources["APP_MODELS"]) == ("environment", "environment")
    assert sources["APP_RUN_MAX_TURNS"] == "command line"
