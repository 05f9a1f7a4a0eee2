# On a fresh machine with Python 3.11 or newer, pip and venv: `make up` runs Ignite, `make test` proves it.
.DEFAULT_GOAL := help
.PHONY: help up test test-vllm bench attack chaos faults fuzz check format proto demo-model clean install install-dev

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

up: install ## run API and worker in one process on 127.0.0.1:8000 with the demo model (ARGS="--port 9000")
	@exec .venv/bin/ignite up $(ARGS)

test: install-dev ## run every check and every test except the long fault tests; installs RabbitMQ and Redis (ARGS="-k stream")
	@scripts/test.sh $(ARGS)

bench: install-dev ## compare with bare servers (ARGS="--rounds 5 --only streams,unary"); see docs/explanation/performance.md
	@scripts/install-servers.sh > /dev/null
	@.venv/bin/python -m benchmarks $(ARGS)

chaos: install-dev ## run load with faults drawn from a seed, and check the results (ARGS="--minutes 5 --seed 7")
	@scripts/install-servers.sh > /dev/null
	@.venv/bin/python -m tests.chaos $(ARGS)

faults: install-dev ## run every fault test, the long ones included
	@scripts/install-servers.sh > /dev/null
	@.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "long or not long" tests/faults tests/chaos $(ARGS)

fuzz: install-dev ## run every fuzzer, seed after seed, for the given minutes (ARGS="--minutes 10 --seed 7")
	@.venv/bin/python -m tests.fuzz $(ARGS)

attack: install-dev ## measure a healthy client's latency during attacks; see docs/explanation/security.md (ARGS="--only heads,uploads")
	@scripts/install-servers.sh > /dev/null
	@.venv/bin/python -m benchmarks.attacks $(ARGS)

test-vllm: install-dev ## test with a real vLLM on this machine's CPU, installed into .venv-vllm (ARGS="--vllm-url URL" for yours)
	@scripts/test-vllm.sh $(ARGS)

check: install-dev ## check lint, format, types, import rules and generated code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports
	scripts/proto.sh --check

format: install-dev ## format the code and apply safe lint fixes
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

proto: install-dev ## generate the Python code of shared/proto
	scripts/proto.sh

demo-model: ## train worker/engines/demo_model/demo.gguf
	UV_PROJECT_ENVIRONMENT=.venv-demo-model scripts/uv.sh run --frozen --group demo-model \
	    python -m tools.demo_model.train -o worker/engines/demo_model/demo.gguf

clean: ## remove installed and generated files; keeps ./ignite-data
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install:
	@scripts/install.sh

install-dev:
	@scripts/install.sh --dev
