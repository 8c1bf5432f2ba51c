"""`python -m benchmarks.gateway_server PORT URL UPSTREAM`: our application as it is served, as a gateway."""

import sys
from functools import partial

import uvicorn

from app.api.application import create_app, stop_streams
from app.bootstrap import set_up_logs
from app.cli.http_server import HttpServer
from app.settings import Settings, load_settings
from benchmarks.instant_model import SERVER_OPTIONS


def gateway_settings(url: str, upstream: str) -> Settings:
    """Return default settings, but for the database, the upstream, and that its models may be called."""
    return load_settings(
        database={"url": url},
        openai={"api_key": "none", "base_url": upstream, "api": "chat_completions"},
        gateway={"models": "gpt-*"},
    )


if __name__ == "__main__":
    settings = gateway_settings(sys.argv[2], sys.argv[3])
    set_up_logs(settings)
    application = create_app(settings=settings)
    config = uvicorn.Config(application, port=int(sys.argv[1]), access_log=False, log_config=None, **SERVER_OPTIONS)
    HttpServer(config, partial(stop_streams, application)).run()
