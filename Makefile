# What people do here. Each verb sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup serve ask test lint types proto bench bench-doors bench-peers faults model eval-model

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,training]'
	@touch $@

setup: $(READY) ## a virtual environment with everything, pinned

serve: $(READY) ## serve the embedded model on gRPC port 50051
	$(BIN)/vlserve serve

PICTURE ?= src/vlserve/models/embedded/example.png
QUESTION ?= Describe the image
ask: $(READY) ## ask about a picture: make ask PICTURE=cat.jpg QUESTION='what is this?'
	$(BIN)/vlserve ask '$(PICTURE)' '$(QUESTION)'

test: $(READY) ## all tests
	$(BIN)/python -m pytest

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

model: $(READY) ## train the embedded model from nothing (about two hours on 2 cores)
	$(BIN)/python -m training

eval-model: $(READY) ## measure the embedded model on pictures it never saw
	$(BIN)/python -m training.evaluate
