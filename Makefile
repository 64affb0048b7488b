# One line per target; CI runs `make test` and nothing else (.ci/run).
.PHONY: help demo wan-demo demo-genomics test check unit integration faults podman soak bench clean
.DEFAULT_GOAL := help
BIN := $(CURDIR)/.build/venv-test/bin
TESTS := deploy/venv test && export PATH="$(BIN):$$PATH" &&
WITH_IMAGES := deploy/with-engine sh -c 'deploy/images && exec "$$@"' -
SHELL := /bin/bash

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

demo:           ## the main job on a fresh machine: count the primes up to 100000
	@deploy/venv && deploy/with-engine examples/primes/demo.sh

wan-demo:       ## four sites: a link is dead for 10 s and heals, everything arrives once
	@$(TESTS) PYTHONPATH=tests python -m faults.crossing $(WAN)

demo-genomics:  ## real reads through bowtie2, samtools and bcftools, checked read for read
	@deploy/venv && deploy/with-engine examples/lambda-phage/run.sh

test:           ## every test but the soak, on the built wheel, from nothing
	@$(TESTS) $(WITH_IMAGES) pytest -m "not soak"

check:          ## lint, format, types, spelling, architecture (20 s at most)
	@$(TESTS) ruff check && ruff format --check && mypy && codespell && pytest -q tests/unit/test_architecture.py

unit:           ## decisions and doubles, no server and no container
	@$(TESTS) pytest tests/unit tests/contract

integration:    ## a real nats-server and a real container engine
	@$(TESTS) $(WITH_IMAGES) pytest tests/integration

faults:         ## break things on purpose
	@$(TESTS) $(WITH_IMAGES) pytest tests/faults

podman:         ## the contract of the docker runtime, on Debian's podman (a few minutes; not in CI)
	@$(TESTS) dir=$$(mktemp -d /tmp/sbx-podman.XXXXXX) && trap "deploy/private-podman stop $$dir; rm -rf $$dir" EXIT && \
	export $$(deploy/private-podman start $$dir | tail -n 1) && pytest tests/contract/test_runtime*.py -k docker

soak:           ## what takes hours: long cuts of links, repeated kills
	@$(TESTS) $(WITH_IMAGES) pytest -m soak

bench:          ## ratios against a baseline taken in the same run
	@$(TESTS) $(WITH_IMAGES) python bench

clean:          ## remove everything that was built here
	rm -rf .venv .build build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
