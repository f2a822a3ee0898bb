# Thin on purpose: each target calls cargo, xtask or npm. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Works with an empty environment too: cargo is where rustup puts it.
export HOME ?= $(shell getent passwd "$$(id -u)" | cut -d: -f6)
export CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$(PATH)

TARGET := $(or $(CARGO_TARGET_DIR),target)
SPECOLA := $(TARGET)/release/specola
DEMO_FILE ?= examples/sandbox/shop.yaml
# Crates with integration tests that need neither root nor bpf().
UNPRIVILEGED := specola-cli specola-directory specola-flow specola-flow-server specola-labels specola-policy \
	specola-proto specola-relay specola-ring

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install what building, testing and the demo need (apt, cargo)
	@xtask/setup.sh test

.PHONY: build
build: ## Build the release binary target/release/specola
	@xtask/setup.sh build
	cargo build --release --locked --bin specola

.PHONY: demo
demo: ## Run a small cluster with real traffic and show its flows (DEMO_SECONDS=20 ends by itself)
	@xtask/setup.sh test
	@cargo build --release --locked --bin specola
	@$(SPECOLA) sandbox demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS)) $(DEMO_FILE)

.PHONY: test
test: ## Everything: lints, layers, unit, property, kernel and end-to-end tests (root)
	@xtask/setup.sh test
	@test "$$(id -u)" -eq 0 || { echo "make test needs root for bpf() and network namespaces; without root: make test-unit" >&2; exit 1; }
	$(MAKE) --no-print-directory lint
	cargo test --locked --workspace --no-fail-fast
	$(MAKE) --no-print-directory loom

.PHONY: test-unit
test-unit: ## Tests that need neither root nor bpf()
	@xtask/setup.sh unit
	cargo test --locked --workspace --lib --bins
	cargo test --locked $(addprefix -p ,$(UNPRIVILEGED)) --tests

.PHONY: loom
loom: ## Model check the lock-free ring
	RUSTFLAGS="--cfg loom" cargo test --locked --release -p specola-ring --test loom --target-dir $(TARGET)/loom

.PHONY: mutants
mutants: ## Check that the tests notice seeded mistakes in the kernel programs (root, about ten minutes)
	@xtask/setup.sh test
	cargo run --locked --quiet -p xtask -- mutants

.PHONY: bench
bench: ## Measure speed and write docs/benchmarks (root; on a quiet machine; BENCH="ring paths" runs some only)
	@xtask/setup.sh test
	cargo run --locked --quiet -p xtask -- bench $(BENCH)

SOAK_SECONDS ?= 600
SOAK_RATE ?= 100000
.PHONY: soak
soak: ## Load the flow server for long and check that its memory stays flat (SOAK_SECONDS=600, SOAK_RATE=100000)
	@xtask/setup.sh unit
	cargo bench --quiet --locked -p specola-flow-server --bench soak -- --seconds $(SOAK_SECONDS) --rate $(SOAK_RATE)

FUZZ_TARGETS := policy_yaml policy_cases selectors events flow_requests captures relay_answers
FUZZ_SECONDS ?= 60
# Without a nightly toolchain the stable one does, less the sanitizers.
.PHONY: fuzz
fuzz: ## Fuzz what reads policies, events, requests, captures, peers (cargo-fuzz; FUZZ_SECONDS=60 each)
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is not installed: cargo install --locked cargo-fuzz" >&2; exit 1; }
	@if cargo +nightly --version >/dev/null 2>&1; then run=(cargo +nightly fuzz run); else \
		run=(env RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none); fi; \
	for target in $(FUZZ_TARGETS); do \
		"$${run[@]}" --target-dir $(abspath $(TARGET))/fuzz $$target -- -max_total_time=$(FUZZ_SECONDS); done

.PHONY: miri
miri: ## Interpret the ring's tests under Miri (needs a nightly toolchain with Miri)
	@cargo +nightly miri --version >/dev/null 2>&1 || { echo "Miri is not installed: rustup toolchain install nightly --component miri" >&2; exit 1; }
	MIRIFLAGS="-Zmiri-many-seeds=0..16" cargo +nightly miri test -p specola-ring

.PHONY: lint
lint: ## Format, clippy, layers
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo run --locked --quiet -p xtask -- layers
	cd datapath/ebpf && cargo fmt --check
	cd datapath/ebpf && RUSTC_BOOTSTRAP=1 RUSTFLAGS='--cfg=bpf_target_arch="x86_64" -Cpanic=abort' cargo clippy \
		--locked --release --target-dir $(abspath $(TARGET))/ebpf-clippy -- -D warnings

.PHONY: deny
deny: ## Check licences, bans and sources of dependencies (installs cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { echo "installing cargo-deny" >&2; cargo install --quiet --locked cargo-deny; }
	cargo deny check licenses bans sources

.PHONY: ebpf
ebpf: ## Build the kernel programs alone
	@xtask/setup.sh build
	cargo build --locked -p specola-datapath

.PHONY: clean
clean: ## Remove build products
	cargo clean
