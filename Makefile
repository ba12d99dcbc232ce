# busymate_stats: `make demo` shows it, `make test` proves it, `make install PG_CONFIG=…` puts it into a server.

EXTENSION := busymate_stats
VERSION   := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(EXTENSION).control)
PG_CONFIG ?= $(shell scripts/find-pg-config)
PG_MAJOR  := $(shell $(if $(PG_CONFIG),$(PG_CONFIG) --version,echo) | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
SCRIPT    := sql/$(EXTENSION)--$(VERSION).sql
TOPICS    := $(sort $(wildcard sql/topics/*.sql))
# -torture for the library with hooks that no user's may have: a build and a stage of its own.
VARIANT   ?=
PROFILE   := $(or $(VARIANT:-%=%),release)
SERVER    := $(shell $(if $(PG_CONFIG),scripts/server-name $(PG_CONFIG),echo))
# One for each server: cargo gives libraries of different features one name.
TARGET    := target/build-pg$(SERVER)
LIBRARY   := target/pg$(SERVER)$(VARIANT)/$(PROFILE)/lib$(EXTENSION).so
# When the library was built, and for which server.
BUILT     := target/pg$(SERVER)$(VARIANT).built

PKGLIBDIR := $(shell $(if $(PG_CONFIG),$(PG_CONFIG) --pkglibdir,echo))
SHAREDIR  := $(shell $(if $(PG_CONFIG),$(PG_CONFIG) --sharedir,echo))

export VARIANT
export PGRX_PG_CONFIG_PATH := $(PG_CONFIG)
# What pgrx-tests needs rustc 1.95 for.
PG_TEST   := $(shell [ "$$(rustc --version 2>/dev/null | cut -d. -f2)" -lt 95 ] 2>/dev/null || echo ,pg_test)
CARGO_TESTS := --package busymate_stats_tests --target-dir $(shell scripts/tests-target) --locked
# What a version that is not tested in full leaves out: what needs other software, and what differs least between servers.
CORE_SKIPS := --skip docs:: --skip mcp:: --skip rest:: --skip status:: --skip install::pgaudit --skip install::packages \
    --skip install::library_agrees --skip install::schema_tools --skip fleet::partman --skip worker::cron \
    --skip sealed::apply_workers --skip access::static_analysis
CARGO_PG := --no-default-features --features pg$(PG_MAJOR)$(VARIANT:-%=,%) --target-dir $(TARGET) --locked

.PHONY: all bench build build-assertions build-core build-it build-pgrx build-short-torture build-torture clean deb demo dist held install licences lint mutants need-pg release-sql script setup soak stage stop test test-all test-assertions test-bare test-core test-full test-it test-packages test-pgrx test-short-torture test-torture test-upgrades torture torture-run uninstall

all: build

need-pg:
	@test -n "$(PG_MAJOR)" || { echo "No PostgreSQL server headers found. Run scripts/setup, or name yours: make PG_CONFIG=/path/to/pg_config" >&2; exit 1; }

build: need-pg
	@mkdir -p $(dir $(LIBRARY))
	@begun=$$(mktemp $(BUILT).XXXXXX) && chmod 644 $$begun && echo '$(PG_CONFIG)' >$$begun && \
	{ cargo build --profile $(PROFILE) $(CARGO_PG) && cp $(TARGET)/$(PROFILE)/lib$(EXTENSION).so $(LIBRARY) && \
	mv $$begun $(BUILT) || { rm -f $$begun; exit 1; }; }

# Builds only what has changed since `make`, so that it needs no cargo under sudo.
install: need-pg
	@scripts/ensure-built '$(LIBRARY)' '$(BUILT)' '$(PG_CONFIG)'
	install -d '$(DESTDIR)$(PKGLIBDIR)' '$(DESTDIR)$(SHAREDIR)/extension'
	install -m 755 $(LIBRARY) '$(DESTDIR)$(PKGLIBDIR)/$(EXTENSION).so'
	install -m 644 $(EXTENSION).control $(wildcard sql/$(EXTENSION)--*.sql) '$(DESTDIR)$(SHAREDIR)/extension/'

uninstall: need-pg
	rm -f '$(DESTDIR)$(PKGLIBDIR)/$(EXTENSION).so' '$(DESTDIR)$(SHAREDIR)/extension/$(EXTENSION)'.control '$(DESTDIR)$(SHAREDIR)/extension/$(EXTENSION)'--*.sql

# The install script is the topics in order. It is committed, so that installing needs no generator.
script:
	scripts/assemble-sql $(TOPICS) > $(SCRIPT)

# At a release: its scripts are listed in sql/released.sha256, and are never edited again.
release-sql:
	@scripts/release-sql

# A Debian package for one PostgreSQL: make deb PG=17. Left in target/deb/.
deb:
	@scripts/build-deb '$(or $(PG),$(PG_MAJOR))'

# What PGXN takes: the last commit's files, in a zip file named after the version.
dist:
	@mkdir -p target
	git archive --format=zip --prefix=$(EXTENSION)-$(VERSION)/ --output=target/$(EXTENSION)-$(VERSION).zip HEAD
	@echo target/$(EXTENSION)-$(VERSION).zip

# A private copy of the server with the extension in it: tests and the demo leave the system's own alone.
stage: need-pg
	@scripts/stage '$(PG_CONFIG)'

lint: need-pg
	cargo fmt --all -- --check
	cargo fmt --manifest-path tests/mcp_clients/rust/Cargo.toml -- --check
	cargo clippy --all-targets $(CARGO_PG) -- -D warnings
	cargo clippy --all-targets $(CARGO_PG) --features torture$(PG_TEST) -- -D warnings
	cargo clippy --all-targets $(CARGO_TESTS) -- -D warnings
	@$(MAKE) --no-print-directory licences

# What deny.toml says of the crates' licences and sources, where cargo-deny is installed; and advisories, where their
# database can be had from the network.
licences:
	@scripts/check-crates

# Some tests run others' software: pg_cron, pg_partman, pglogical, wal2json, pgaudit, nginx, Alembic, MCP clients.
test-packages:
	@scripts/setup-tests

# The server that is found, or PG_CONFIG's.
test: lint test-packages test-full

# Every supported version, or the JOBS that are named; FULL names the versions that are tested in full.
test-all: lint test-packages
	@scripts/test-all $(JOBS)

# One red step does not keep the next from running.
test-full: build-it build-pgrx build-torture
	@failed=; \
	for step in it pgrx torture; do $(MAKE) --no-print-directory test-$$step || failed="$$failed $$step"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

# The integration tests; FILTER=worker:: for those so named.
build-it: stage
	cargo test --no-run $(CARGO_TESTS)

test-it: stage
	scripts/run-tests '$(PG_CONFIG)' it $(FILTER)

# The library's own tests, beside the code: those that need no server, and those that run inside one, through pgrx-tests.
# FILTER=range for those so named.
build-pgrx: need-pg
	scripts/pgrx-tests '$(PG_CONFIG)' --no-run

test-pgrx: need-pg
	scripts/pgrx-tests '$(PG_CONFIG)' $(FILTER)

# The torture, with a seed of its own.
build-torture: need-pg
	@$(MAKE) --no-print-directory stage VARIANT=-torture
	cargo test --no-run $(CARGO_TESTS)

test-torture: need-pg
	@$(MAKE) --no-print-directory torture SEED=$(or $(SEED),20261124)

# Of the integration tests, what needs no other software than the server, with the library that the torture builds.
build-core: build-torture

test-core: export VARIANT = -torture
test-core: export BUSYMATE_TEST_SERVER_ALONE = yes
test-core: stage
	@echo "left out: $(subst --skip ,,$(CORE_SKIPS))"
	scripts/run-tests '$(PG_CONFIG)' it $(CORE_SKIPS)

build-short-torture: build-torture

test-short-torture: export BUSYMATE_TEST_SERVER_ALONE = yes
test-short-torture: need-pg
	@$(MAKE) --no-print-directory torture SEED=$(or $(SEED),20261124) STEPS=500

# For a server with assertions: a part of the torture with its caches discarded at every chance.
build-assertions: build-torture

test-assertions: export BUSYMATE_TEST_SERVER_ALONE = yes
test-assertions: need-pg
	@failed=; \
	$(MAKE) --no-print-directory torture SEED=$(or $(SEED),20261124) STEPS=500 || failed=" torture"; \
	BUSYMATE_DISCARD_CACHES=yes \
	    $(MAKE) --no-print-directory torture SEED=$(or $(SEED),20261124) STEPS=200 THIN=1 FILTER=schedules::the_seal_and_the_plain_query_agree_step_by_step || failed="$$failed discarded"; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

# pg_upgrade to this server from OTHERS, 15=BIN:16=BIN, whose libraries are staged.
test-upgrades: export VARIANT = -torture
test-upgrades: export BUSYMATE_TEST_OTHER_SERVERS = $(OTHERS)
test-upgrades: stage
	@echo "upgrades from $(foreach other,$(subst :, ,$(OTHERS)),$(firstword $(subst =, ,$(other))))"
	scripts/run-tests '$(PG_CONFIG)' it install::pg_upgrade

# Random schedules against the sealed window: STEPS=100000 for a long run, SEED=… for one that was seen before, THIN=1
# with a comparison or two after each step rather than eight, FILTER=decoded for the tests so named.
torture: export BUSYMATE_STEPS = $(STEPS)
torture: export BUSYMATE_THIN = $(THIN)
torture: export BUSYMATE_SEED = $(SEED)
torture:
	@$(MAKE) --no-print-directory torture-run VARIANT=-torture RUN='--skip mutants::'

# The same against variants that break one rule each: every one must be found.
mutants:
	@$(MAKE) --no-print-directory torture-run VARIANT=-torture RUN=mutants::

torture-run: stage
	scripts/run-tests '$(PG_CONFIG)' torture --nocapture $(RUN) $(FILTER)

# Ten thousand ticks, some minutes; prints what they cost the launcher.
soak: stage
	scripts/run-tests '$(PG_CONFIG)' it worker::soak --ignored

# An hour of load beside a held snapshot and beside a writer left open; prints latencies and sizes. MINUTES=… is shorter.
held: export BUSYMATE_MINUTES = $(MINUTES)
held: stage
	scripts/run-tests '$(PG_CONFIG)' it sealed::held --ignored --nocapture

# Prints one Markdown table. SIZES="100000000" adds a size to 1 M and 10 M, a list replaces them; QUICK=1 takes fewer
# samples. ONLY=read, write, access or ddl runs a part; ONLY=write ROWS='60 s late' of that the rows of ingest and retention so
# named; ROWS='processor time' the figures that other work on the machine disturbs least. ONLY=queue is in no other run:
# the memory of PostgreSQL's queue of row events for statements of 5 M rows, or of SIZES=50000000.
bench: SIZES ?= $(BENCH_SIZES)
bench: export BENCH_ONLY = $(ONLY)
bench: export BENCH_ROWS = $(ROWS)
bench: QUICK ?= $(BENCH_QUICK)
bench: stage
	@BENCH_SIZES='$(SIZES)' BENCH_QUICK='$(QUICK)' scripts/run-bench '$(PG_CONFIG)' $(CARGO_TESTS)
	@benches/idle-cpu '$(PG_CONFIG)'
	@benches/idle-wal '$(PG_CONFIG)'

# Follows README in minimal roots of Debian 12, 13 and forky, as root and as a user with sudo: an hour or more. Root only.
test-bare:
	scripts/test-bare-root bookworm
	scripts/test-bare-root trixie --user
	scripts/test-bare-root forky --user
	scripts/test-bare-root forky

demo:
	@scripts/demo start

stop:
	@scripts/demo stop

# Installs what building and testing need, where it is missing (Debian, Ubuntu).
setup:
	@scripts/setup

# The demo's data lies under target/ too.
clean: stop
	cargo clean
