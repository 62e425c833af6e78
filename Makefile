# Quorate's everyday commands. Each does its own set-up (see scripts/setup).
#
#   make demo     build, start a three-node cluster in one process and open a SQL shell on it
#                 (development profile, whose first build takes half as long; RELEASE=1 for speed;
#                 ARGS="--nodes 5 --no-shell" is handed to `quorate demo`)
#   make test     every check that continuous integration runs
#   make simulate one seed of the simulator, SEED=n or a fresh one (docs/simulator.md;
#                 ARGS="--trace" is handed to `simulate`)
#   make verify   the checks without the tests: formatting, lints, documentation, tidy
#   make fix      format the code and rewrite the golden files
#
# verify and test never change a file of the repository; fix does.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.PHONY: demo test verify fix setup setup-lint setup-postgres fmt-check clippy doc tidy build tests
.PHONY: simulate simulation
MAKEFLAGS += --no-print-directory

# In continuous integration the build outlives the checkout.
ifdef CI
export CARGO_TARGET_DIR ?= $(HOME)/.cache/quorate/target
endif
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

STEP := @scripts/step
CARGO := cargo

# Always the whole workspace: selecting one package would unify dependency features differently
# and build DataFusion and RocksDB a second time. The release binary is for use, not for tests, so
# it is built without what the tests switch on.
ifdef RELEASE
BUILD := $(CARGO) build --locked --release -p quorate-cli
QUORATE := $(TARGET_DIR)/release/quorate
else
BUILD := $(CARGO) build --locked --workspace --bins
QUORATE := $(TARGET_DIR)/debug/quorate
endif

demo: setup
	$(STEP) "build" $(BUILD)
	@exec $(QUORATE) demo $(ARGS)

simulate: setup
	$(STEP) "build the simulator" $(CARGO) build --locked --workspace --bins
	@$(TARGET_DIR)/debug/simulate $(if $(SEED),--seed $(SEED)) $(ARGS)

# Cheapest first, and one after the other: they share the build directory.
test: verify simulation tests

verify: setup fmt-check clippy doc tidy

fix: setup setup-lint setup-postgres
	$(STEP) "format" $(CARGO) fmt --all
	$(STEP) "golden files" env UPDATE_GOLDENFILES=1 $(CARGO) test --locked --workspace

setup:
	@scripts/setup build

setup-lint:
	@scripts/setup lint

setup-postgres:
	@scripts/setup postgres

fmt-check: setup setup-lint
	$(STEP) "rustfmt" $(CARGO) fmt --all --check

clippy: fmt-check
	$(STEP) "clippy" $(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc: clippy
	$(STEP) "rustdoc" env RUSTDOCFLAGS="-D warnings" \
		$(CARGO) doc --locked --workspace --no-deps --document-private-items

tidy: doc
	$(STEP) "tidy" $(CARGO) test --locked --workspace --quiet --test all tidy

build: tidy
	$(STEP) "build tests" $(CARGO) test --locked --workspace --no-run
	$(STEP) "build quorate" $(CARGO) build --locked --workspace --bins

# A few seeds that always run, so that a failure is seen by whoever causes it, and a few fresh ones,
# so that each run looks somewhere new. What a fresh one finds is no accident: its seed is printed.
simulation: build
	$(STEP) "simulation" $(TARGET_DIR)/debug/simulate --from 1 --count 10 --fresh 10 --jobs 2 --seconds 15

tests: build setup-postgres
	$(STEP) "tests" env QUORATE_BIN=$(abspath $(TARGET_DIR))/debug/quorate \
		$(CARGO) test --locked --workspace
