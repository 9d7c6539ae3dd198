# Two commands are all that a fresh machine with Python 3.11 and Go 1.26 needs: `make demo` and `make test`.
# They set up what is missing first: uv, the locked packages, a few system tools, the programs of the testbed.

UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
RUN := $(UV) run --no-sync
CLUSTERLESS := tests/core tests/fuzz tests/traffic tests/simulation tests/test_docs.py tests/test_policies.py tests/test_workqueue.py

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz sim fix bench lint synced ready

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

demo: ready ## three changes on a real cluster made of processes: one completes, two come back by themselves
	@$(RUN) serin-testbed demo

test: lint ready ## everything: what check does, and admission and end-to-end tests on real clusters
	$(RUN) pytest

check: lint ## lint, types, import contract and the tests that need no cluster: about five minutes
	$(RUN) pytest -q $(CLUSTERLESS)

fuzz: synced ## what nobody meant to send, longer: EXAMPLES=20000 of each property
	SERIN_FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(RUN) pytest -q tests/fuzz

sim: synced ## whatever may go wrong, by seed: make sim SEEDS=200000
	$(RUN) python -m tests.simulation.storm --seeds $(or $(SEEDS),20000) --processes $$(nproc) --controls

lint: synced
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) lint-imports --no-logo
	$(RUN) mypy

fix: synced ## mend what ruff can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: ready ## how fast a bad change is taken back; the table of docs/performance.md
	$(RUN) python -m benchmarks.time_to_safety

synced: $(filter .uv/%,$(UV))
	@$(UV) sync --locked --quiet

ready: synced
	@testbed/prepare
	@$(RUN) serin-testbed build

.uv/bin/uv:
	@testbed/prepare uv
