# The front door. `make run` and `make test` set everything up themselves; see README.md.
PYTHON ?= python3.11
BIN := .venv/bin
# Idle threads of torch sleep soon: two processes that spin for each other are eight times as slow (docs/log.md).
export GOMP_SPINCOUNT ?= 1000
export WANDB_MODE ?= offline
export HYDRA_FULL_ERROR ?= 0

# Test processes, each of up to 3.5 GiB.
JOBS ?= 2

.PHONY: run test setup serve chat convert data train eval build compare deploy bench lint format validate clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z ]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 40

setup:  ## create .venv from requirements.lock (a second call does nothing)
	@$(PYTHON) src/throughline/bootstrap.py

run: setup  ## the whole line: raw records to a benchmarked engine on Triton
	@$(BIN)/python -m recipes.lifecycle $(ARGS)

test: setup  ## unit and integration tests
	@$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

serve: setup  ## the promoted engine behind the OpenAI gateway, until Ctrl-C
	@$(BIN)/python -m recipes.serve $(ARGS)

chat: setup  ## talk to what `make serve` serves
	@$(BIN)/python -m recipes.chat $(ARGS)

convert data train build compare deploy bench: setup  ## one stage; pass overrides with ARGS="key=value"
	@$(BIN)/python -m recipes.$@ $(ARGS)

eval: setup  ## score the models on the acceptance set
	@$(BIN)/python -m recipes.evaluate $(ARGS)

validate: setup  ## check every preset in recipes/conf
	@$(BIN)/python -m recipes.validate

lint: setup  ## ruff, mypy and the import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup  ## apply ruff's fixes and format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:  ## remove built artifacts (keeps .venv)
	rm -rf artifacts outputs multirun
