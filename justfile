# Recipes of the project. `just` itself comes from the rust-just wheel: `sh bin/setup` installs it into .venv/bin.

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

# List the recipes.
default:
    @just --list

# Make .venv from the locked requirements.
setup:
    sh bin/setup

# Run the tests; arguments go to pytest.
test *arguments: setup
    pytest {{ arguments }}

# Check style and import rules.
lint: setup
    ruff check .
    ruff format --check .
    lint-imports

# Mend what the linter can mend.
fmt: setup
    ruff check --fix .
    ruff format .

# Check types, strictly.
types: setup
    basedpyright

# Bring the database of DATABASE_URL to this release's schema.
migrate: setup
    alembic upgrade head

# Start the server with reload, on SQLite, with the demo agents.
dev *arguments: setup
    durable-agents dev {{ arguments }}

# Measure against the SDK's own session store and a hand-written endpoint; arguments go to the benchmark.
bench *arguments: setup
    python -m benchmarks {{ arguments }}

# Kill and freeze processes at random while they share many runs; arguments as `--seed 7 --runs 500`.
chaos *arguments: setup
    python -m tests.chaos {{ arguments }}

# Kill capturing programs and servers at random while events go to three destinations; arguments as `--events 100000`.
storm *arguments: setup
    python -m tests.storm {{ arguments }}

# Send the API what its description allows and what it does not, far more than the tests do; so many requests a route.
schemathesis requests="200": setup
    DESCRIBED_EXAMPLES={{ requests }} pytest --timeout 3600 -n 2 tests/api/test_described.py

# Run other people's clients against servers on SQLite and PostgreSQL; tests/clients/README.md says what they need.
clients *arguments: setup
    python -m tests.clients {{ arguments }}

# Lock the requirements again, with hashes and without addresses.
lock: setup
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements/prod.txt
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev -c requirements/prod.txt pyproject.toml -o requirements/dev.txt

# Everything that CI runs, in this checkout.
ci:
    bash .ci/run
