# What people do here. Each verb sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Where everything is set up, serving wants nothing more.
SERVING := $(if $(wildcard $(READY)),$(READY),$(VENV)/.serving)
# uv where it is there. INSTALL_FLAGS goes to whichever it is: --extra-index-url URL, say, for an index
# of PyTorch's that has torch for CPUs alone or for one CUDA; uv names the same by --torch-backend cpu.
UV := $(shell command -v uv)
INSTALL_FLAGS ?=
INSTALL = $(if $(UV),$(UV) pip install --python $(VENV) --compile-bytecode,$(BIN)/pip install) --constraint constraints.txt $(INSTALL_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help setup serve ask check test test-fast test-long test-all test-loaded test-oldest lint types proto bench bench-bodies bench-doors bench-peers clients faults disconnects kills broken-pictures hostile fuzz-http load-tools model eval-model

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serving: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing what serving needs into $(VENV): a minute or two, a few GB where torch brings CUDA'
	$(INSTALL) --editable .
	@touch $@

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing what serving, tests and training need into $(VENV): some minutes'
	$(INSTALL) --editable '.[dev,training]'
	@touch $@

setup: $(READY) ## a virtual environment with everything, pinned

serve: $(SERVING) ## serve the embedded model: gRPC on port 50051, HTTP on 8000
	$(BIN)/vlserve serve

PICTURE ?= src/vlserve/models/embedded/example.png
QUESTION ?= Describe the image
ask: $(SERVING) ## ask about a picture: make ask PICTURE=cat.jpg QUESTION='what is this?'
	$(BIN)/vlserve ask '$(PICTURE)' '$(QUESTION)'

# As many at a time as there are cores, four at most. tests/tiers.py says which test is in which tier.
PYTEST := -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
check: $(READY) ## lint, types and the fast tests, side by side
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint types test-fast

test-fast: $(READY)
	$(BIN)/python $(PYTEST) --tier fast $(ARGS)

test: $(READY) ## the tests, but for the long ones
	$(BIN)/python $(PYTEST) --tier usual --durations 25 $(ARGS)

test-long: $(READY) ## kills, whole pages, many tries
	$(BIN)/python $(PYTEST) --tier long --durations 25 $(ARGS)

test-all: test test-long ## all tests

test-loaded: $(READY) ## `make test` three times beside six processes that want the cores as well
	$(BIN)/python -m tests.loaded --load 6 --times 3 $(BIN)/python $(PYTEST) --tier usual $(ARGS)

OLDEST := .venv-oldest
$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	@touch $@

test-oldest: $(OLDEST)/.ready ## the fast tests and some more on the oldest dependencies that pyproject.toml allows
	$(OLDEST)/bin/python $(PYTEST) --tier oldest $(ARGS)

lint: $(READY) ## style, and who may import whom
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache

types: $(READY) ## mypy --strict
	$(BIN)/mypy --no-error-summary

proto: $(READY) ## generate the gRPC code from proto/
	$(BIN)/python scripts/proto.py

bench: $(READY) ## the native engine against generate, one request after the other
	$(BIN)/python -m bench.engine

bench-doors: $(READY) ## what the doors cost on the echo engine, beside bare servers
	$(BIN)/python -m bench.doors $(ARGS)

faults: $(READY) ## kill and freeze the engine's process under load (about ten minutes)
	$(BIN)/python -m bench.faults

disconnects: $(READY) ## callers leave in every phase of a request, at every door (about twenty minutes)
	$(BIN)/python -m tests.faults.disconnects $(ARGS)

kills: $(READY) ## kill `vlserve describe` in the middle of 1,000 pictures (about ten minutes)
	$(BIN)/python -m bench.describe

THIRD_PARTY := $(CURDIR)/build/third-party
STOCK := build/stock-clients
STOCK_FILES := bench/stock_clients
$(STOCK)/python/.ready: $(STOCK_FILES)/requirements.txt
	$(PYTHON) -m venv $(STOCK)/python
	$(STOCK)/python/bin/pip install --quiet --requirement $<
	@touch $@

$(STOCK)/python-openai2/.ready: $(STOCK_FILES)/requirements-openai2.txt
	$(PYTHON) -m venv $(STOCK)/python-openai2
	$(STOCK)/python-openai2/bin/pip install --quiet --requirement $<
	@touch $@

$(STOCK)/node/.ready: $(STOCK_FILES)/node/package.json
	mkdir -p $(STOCK)/node
	cp $< $(STOCK)/node
	npm install --silent --no-audit --no-fund --prefix $(STOCK)/node
	@touch $@

clients: $(READY) $(STOCK)/python/.ready $(STOCK)/python-openai2/.ready $(STOCK)/node/.ready ## every example client, and unmodified clients of others, plain and streamed, against a live server
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade --target $(THIRD_PARTY) langchain-openai litellm
	PYTHONPATH=$(THIRD_PARTY) $(BIN)/python -m pytest tests/examples
	$(BIN)/python -m bench.stock_clients $(STOCK) $(ARGS)

PEERS := .venv-peers
LLAMA := build/bench/llama.cpp
$(PEERS)/.ready: pyproject.toml constraints.txt bench/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --constraint constraints.txt --requirement bench/peers-requirements.txt --editable '.[bench]'
	@touch $@

$(LLAMA)/version.txt: bench/peer_servers/build_llama.sh | $(PEERS)/.ready
	bench/peer_servers/build_llama.sh $(PEERS)/bin/python $(LLAMA) || echo 'llama.cpp was not built: the run goes on without it and says so'

bench-peers: $(PEERS)/.ready $(LLAMA)/version.txt ## the same weights behind every server at hand (over an hour on 2 cores)
	$(PEERS)/bin/python -m bench.peers $(ARGS)

bench-bodies: $(READY) ## large messages beside running streams
	$(BIN)/python -m bench.bodies $(ARGS)

hostile: $(READY) ## hostile pictures beside running streams
	$(BIN)/python -m bench.hostile

FUZZ := .venv-fuzz
$(FUZZ)/.ready: bench/fuzz-requirements.txt
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/pip install --quiet --requirement bench/fuzz-requirements.txt
	@touch $@

fuzz-http: $(READY) $(FUZZ)/.ready ## 2,000 requests drawn from the OpenAPI document, and with faults planted
	$(BIN)/python -m bench.fuzz_http $(FUZZ)/bin/schemathesis
	$(BIN)/python -m bench.fuzz_http $(FUZZ)/bin/schemathesis --control

LOAD := .venv-load
$(LOAD)/.ready: bench/load-requirements.txt
	$(PYTHON) -m venv $(LOAD)
	$(LOAD)/bin/pip install --quiet --requirement bench/load-requirements.txt
	@touch $@

load-tools: $(READY) $(LOAD)/.ready ## aiperf and guidellm, as they are, with pictures (about three minutes)
	$(BIN)/python -m bench.load_tools $(LOAD)/bin $(ARGS)

broken-pictures: $(READY) ## pictures cut at every offset and with flipped bits (about a minute)
	$(BIN)/python -m tests.media.broken

model: $(READY) ## train the embedded model from nothing (about two hours on 2 cores)
	$(BIN)/python -m training

eval-model: $(READY) ## measure the embedded model on pictures it never saw
	$(BIN)/python -m training.evaluate
