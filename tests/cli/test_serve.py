import re
import signal
import socket
import urllib.request

from tests.cli.programs import Program


def test_serve_answers_and_stops_in_order_at_ctrl_c(program: Program) -> None:
    with program.started("serve", "--port", "0") as process:
        assert process.stderr is not None
        seen = ""
        while "Application startup complete" not in seen:
            seen += process.stderr.readline()
        url = re.search(r"Serving demo, poet at (http://127\.0\.0\.1:\d+) with the demo model", seen)
        assert url is not None
        with urllib.request.urlopen(f"{url[1]}/healthz", timeout=10) as reply:
            assert reply.status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Application shutdown complete" in err
    assert "Traceback" not in seen + err


def test_serve_says_in_one_line_why_it_cannot(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = program.call("serve", "--port", port)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith(f"Error: Cannot listen on 127.0.0.1:{port}: ")
    assert told.err.endswith("Choose another --port.\n")

    agents = program.call("serve", "--port", "0", "--agents", "nowhere:agent")
    assert agents.code == 1
    assert "'nowhere' cannot be imported" in agents.err
    assert "Traceback" not in agents.err

    exposed = program.call("serve", "--port", "0", "--host", "0.0.0.0")
    assert exposed.code == 1
    assert "no keys yet" in exposed.err.splitlines()[-1]
    assert "Traceback" not in exposed.err
