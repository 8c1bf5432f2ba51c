"""What the developer's server watches, and what it allows on this machine."""

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvicorn.supervisors

from app.cli import dev
from app.cli.options import Place
from app.cli.serve import Server


class Supervisor:
    """Stands in for the process that starts the server anew at every change."""

    configs: ClassVar[list[Any]] = []

    def __init__(self, config: Any, **_: Any) -> None:
        self.configs.append(config)

    def run(self) -> None:
        """End at once."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("SCR_", "APP_")) or name in {"HOST", "PORT"}:
            monkeypatch.delenv(name)
    # Set first, so that what the command sets is undone.
    for name in ("APP_RUN_SHUTDOWN_GRACE_S", "APP_DELIVERY_ALLOW_PRIVATE_WEBHOOKS", "HOST", "PORT"):
        monkeypatch.setenv(name, "")
        del os.environ[name]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(uvicorn.supervisors, "ChangeReload", Supervisor)
    monkeypatch.setattr("app.bootstrap.set_up_logs", lambda _: None)
    monkeypatch.setattr(dev, "import_from_working_directory", lambda: None)
    monkeypatch.setattr(Supervisor, "configs", [])


@pytest.mark.parametrize("content", ["session_completion_runtime: {}\n", "nonsense: 1\n"], ids=["right", "wrong"])
def test_a_change_of_the_file_starts_the_server_anew(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "scr.yaml").write_text(content)
    monkeypatch.setenv("SCR_CONFIG", "../etc/scr.yaml")
    dev.dev(Server(port=0), Place())
    (config,) = Supervisor.configs
    assert "scr.yaml" in config.reload_includes
    assert (tmp_path / "etc").resolve() in [Path(folder).resolve() for folder in config.reload_dirs]


@pytest.mark.parametrize(
    ("said", "host", "expected"),
    [(None, "127.0.0.1", "true"), ("false", "127.0.0.1", "false"), (None, "0.0.0.0", None)],
    ids=["loopback", "said", "reachable"],
)
def test_receivers_on_this_machine_are_allowed_on_this_machine_only(
    said: str | None, host: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        monkeypatch.setenv("APP_DELIVERY_ALLOW_PRIVATE_WEBHOOKS", said)
    dev.dev(Server(port=0, host=host), Place())
    assert os.environ.get("APP_DELIVERY_ALLOW_PRIVATE_WEBHOOKS") == expected
