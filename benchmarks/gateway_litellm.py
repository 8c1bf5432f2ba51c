"""`python -m benchmarks.gateway_litellm PORT UPSTREAM PROGRAM`: LiteLLM's proxy, one worker, one key, no database.

PROGRAM is the `litellm` of an environment of its own with `litellm[proxy]`. The process becomes LiteLLM's, so that
its CPU clock is that of the process that was started.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.upstream_server import MODEL

KEY = "sk-bench"


def configuration(upstream: str) -> str:
    """Return the file that LiteLLM reads; JSON is YAML, too."""
    to = {"model": f"openai/{MODEL}", "api_base": upstream, "api_key": "none"}
    return json.dumps(
        {
            "model_list": [{"model_name": MODEL, "litellm_params": to}],
            "general_settings": {"master_key": KEY},
        }
    )


def _become(port: str, upstream: str, program: str) -> None:
    file = Path(tempfile.mkdtemp(prefix="litellm-")) / "config.yaml"
    file.write_text(configuration(upstream))
    # Prices come with the package, not from the network; its own log is for errors only.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    environment = {**os.environ, **quiet}
    arguments = ["--config", str(file), "--host", "127.0.0.1", "--port", port, "--num_workers", "1"]
    # A side waits while the others are measured.
    arguments += ["--keepalive_timeout", "600", "--telemetry", "False"]
    os.execve(program, [program, *arguments], environment)


if __name__ == "__main__":
    _become(*sys.argv[1:4])
