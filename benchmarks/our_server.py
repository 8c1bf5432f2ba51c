"""`python -m benchmarks.our_server PORT URL`: our application as it is served, with the agents of the benchmark."""

import sys

import uvicorn

from app.api.application import create_app
from app.bootstrap import set_up_logs
from benchmarks.instant_model import SERVER_OPTIONS, streaming_agents
from benchmarks.systems import settings_for

if __name__ == "__main__":
    settings = settings_for(sys.argv[2])
    set_up_logs(settings)
    application = create_app(settings=settings, agents=streaming_agents())
    # Our own lines stay as they are, and we log every request ourselves.
    uvicorn.run(application, port=int(sys.argv[1]), access_log=False, log_config=None, **SERVER_OPTIONS)
