"""`python -m benchmarks.our_server PORT URL`: our application as it is served, with the agents of the benchmark."""

import sys
from functools import partial

import uvicorn
from agents import Agent

from app.api.application import create_app, stop_streams
from app.bootstrap import set_up_logs
from app.cli.http_server import HttpServer
from benchmarks.instant_model import SERVER_OPTIONS, InstantModel, streaming_agents
from benchmarks.systems import settings_for

SERVED = "served"
"""The name of the agent whose model answers at once and as a whole; the other ones stream."""

if __name__ == "__main__":
    settings = settings_for(sys.argv[2])
    set_up_logs(settings)
    served = Agent(name=SERVED, instructions="You answer.", model=InstantModel())
    application = create_app(settings=settings, agents=[*streaming_agents(), served])
    # Our own lines stay as they are, and we log every request ourselves.
    config = uvicorn.Config(application, port=int(sys.argv[1]), access_log=False, log_config=None, **SERVER_OPTIONS)
    HttpServer(config, partial(stop_streams, application)).run()
