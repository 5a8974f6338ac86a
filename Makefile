# Two commands matter: `make demo` and `make test`. Everything they need is installed into .venv by this file.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
comma  := ,
STAMP  := $(VENV)/.installed
# An extra of pyproject.toml, installed without building the project again.
EXTRA  := $(VENV)/.extra
# python-ldap is built from source: only where OpenLDAP's headers are.
LDAP   := $(if $(wildcard /usr/include/ldap.h),$(comma)ldap)
# So are two of MySQL's drivers, for the tests only.
MYSQL  := $(if $(wildcard /usr/include/mariadb/mysql.h),$(comma)drivers)

.PHONY: program test-machine bench-console bench-scrape site sbom audit bench test-gnuhealth dashboards demo demo-cluster up test drivers transcripts fuzz fuzz-atheris lint typecheck docs bench-attack bench-detect bench-replay bench-relay bench-sessions bench-stream bench-hooks bench-archive bench-exposure chaos clean

# What setup.py compiles: built anew when it changes.
COMPILED := $(wildcard $(shell sed -n -e 's/^    "\(exfilguard[a-z0-9_.]*\)",$$/\1/p' -e 's/^    "\(exfilguard[a-z0-9_.]*\)": .*/\1/p' setup.py | tr . / | sed 's/$$/.py/'))

$(STAMP): pyproject.toml setup.py $(COMPILED) $(wildcard exfilguard/*/*.pxd exfilguard/*/*/*.pxd exfilguard/*/*.pyx exfilguard/*/*/*.pyx exfilguard/*/*.h)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot create a virtual environment; on Debian/Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev$(LDAP)$(MYSQL)]'
	@touch $@

# The program alone, without what tests and benches need: a third of the time.
program: $(VENV)/.program
$(VENV)/.program: pyproject.toml setup.py $(COMPILED)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot create a virtual environment; on Debian/Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[hooks]'
	@touch $@

$(EXTRA)-%: pyproject.toml | $(STAMP)
	@$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$*"]))' > $@.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r $@.txt
	@touch $@

demo: $(STAMP)
	@$(BIN)/exfilguard demo $(ARGS)

# The whole installation: three secured brokers, two sidecars, two detectors, Prometheus and Alertmanager, as processes.
demo-cluster: $(STAMP)
	@$(BIN)/python -m deploy.cluster.demo $(ARGS)

up: $(STAMP)
	@$(BIN)/exfilguard up $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

typecheck: $(STAMP)
	@$(BIN)/mypy

test: $(STAMP)
	@$(BIN)/pytest $(ARGS)

# Oracle's own MySQL server, unpacked into the cache (MYSQL_SERVER=9: the newest, else 8.0): tests that want it skip where it is not.
mysql-server: $(STAMP)
	@$(BIN)/python -m exfilguard.embedded.mysql

# A real EHR behind the sidecar: installs GNU Health from PyPI into a virtual environment of its own (about 3 minutes in all).
GNUHEALTH_VENV ?= .venv-gnuhealth
test-gnuhealth: $(STAMP)
	@test -x $(GNUHEALTH_VENV)/bin/trytond || { $(PYTHON) -m venv $(GNUHEALTH_VENV) && $(GNUHEALTH_VENV)/bin/pip install --quiet \
	  --disable-pip-version-check 'gnuhealth>=5.0,<5.1' gnuhealth-lab gnuhealth-inpatient gnuhealth-icd10 gnuhealth-history psycopg2-binary; }
	@GNUHEALTH_VENV=$(GNUHEALTH_VENV) $(BIN)/pytest tests/ehr/gnuhealth.py --timeout 500 $(ARGS)

# The clinic's installation on two machines with a real systemd, in containers: as root, with debootstrap and systemd-container.
test-machine: $(STAMP)
	@rm -rf build/machine/dist && $(BIN)/pip wheel --quiet --no-deps --wheel-dir build/machine/dist .
	@$(BIN)/pytest tests/deploy/machine.py --timeout 900 $(ARGS)

# Measurements; QUICK=1 for a short run. Each prints a line a bar, writes bench/results/, and exits 1 where one is short.
bench-attack: $(STAMP)
	@$(BIN)/python -m bench.attack $(ARGS)

bench-hooks: $(STAMP)
	@$(BIN)/python -m bench.hooks $(ARGS)
# The operator's pages with 10,000 incidents, and /metrics with 5,000 sessions and 10,000 accounts: under a minute each.
bench-console: $(STAMP)
	@$(BIN)/python -m bench.console $(ARGS)

bench-scrape: $(STAMP)
	@$(BIN)/python -m bench.scrape $(ARGS)

bench-stream: $(STAMP) $(EXTRA)-bench
	@$(BIN)/python -m bench.stream $(ARGS)

bench-archive: $(STAMP)
	@$(BIN)/python -m bench.archive $(ARGS)

bench-exposure: $(STAMP)
	@$(BIN)/python -m bench.exposure $(ARGS)

chaos: $(STAMP)
	@$(BIN)/python -m bench.chaos $(ARGS)

bench-detect: $(STAMP)
	@$(BIN)/python -m bench.detect $(ARGS)

bench-replay: $(STAMP)
	@$(BIN)/python -m bench.replay $(ARGS)

bench-sessions: $(STAMP)
	@$(BIN)/python -m bench.sessions $(ARGS)

bench-relay: $(STAMP)
	@$(BIN)/python -m bench.relay $(ARGS)

# The numbers of the design, one after the other; goes on where one is short, and says so at the end.
bench: $(STAMP)
	@status=0; for one in relay stream detect attack; do $(MAKE) --no-print-directory bench-$$one || status=1; done; \
	  $(MAKE) --no-print-directory chaos || status=1; exit $$status

# Every driver on every server in both modes, into docs/DRIVERS.md; `make test` runs a part of it.
drivers: $(STAMP)
	@$(BIN)/python -m exfilguard.embedded.mysql && MYSQL_SERVER=9 $(BIN)/python -m exfilguard.embedded.mysql
	@ALL_DRIVERS=1 $(BIN)/pytest tests/drivers tests/integration/test_evidence_mysql.py $(ARGS)
	@ALL_DRIVERS=1 MYSQL_SERVER=9 $(BIN)/pytest tests/drivers/mysql tests/integration/test_mysql_oracle.py -k "mysql9 or oracle" $(ARGS)

transcripts: $(STAMP)
	@RECORD_TRANSCRIPTS=1 $(BIN)/pytest tests/drivers $(ARGS)

# Mutated transcripts, 10 million inputs of the two engines; goes on where it was stopped, and writes docs/benchmarks/fuzz.md.
fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz.run $(ARGS)

fuzz-atheris: $(STAMP) $(EXTRA)-fuzz
	@$(BIN)/python -m tests.fuzz.atheris_run $(ARGS)

docs: $(STAMP)
	@$(BIN)/python -m exfilguard.config.reference > docs/CONFIGURATION.md
	@$(BIN)/python -m exfilguard.exporter.catalogue > docs/METRICS.md

# docs/ as a web site in build/site; a link to nowhere, or a page that nothing leads to, stops it.
site: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What ships, and what is known against it. The bill of materials is made of an environment with the product's dependencies and nothing else.
RELEASE := build/release-venv
$(RELEASE)/.installed: pyproject.toml | $(STAMP)
	@$(PYTHON) -m venv $(RELEASE) && $(BIN)/python -m deploy.supply_chain requirements > $(RELEASE)/requirements.txt
	@$(RELEASE)/bin/pip install --quiet --disable-pip-version-check -r $(RELEASE)/requirements.txt && touch $@
sbom: $(STAMP) $(EXTRA)-release $(RELEASE)/.installed
	@$(BIN)/cyclonedx-py environment $(RELEASE)/bin/python --pyproject pyproject.toml --output-reproducible -o build/sbom.cdx.json
	@$(BIN)/python -m deploy.supply_chain sbom build/sbom.cdx.json
# Asks a vulnerability service, one question a package: exits 2, and says what to do, where none can be reached.
audit: $(STAMP) $(EXTRA)-release $(RELEASE)/.installed
	@$(BIN)/python -m deploy.supply_chain audit $$($(RELEASE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') $(ARGS)

dashboards: $(STAMP)
	@$(BIN)/python -m grafana.boards

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find exfilguard -name '*.so' -delete -o -name '*.c' -delete
