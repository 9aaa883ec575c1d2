# Two environments, as in an installation: ours and LiteLLM's. Each is made again when its lock changes.
PYTHON ?= python3
VENV := .venv
GUEST := .venv-litellm
PY := $(VENV)/bin/python
export OCD_TEST_LITELLM_PYTHON ?= $(CURDIR)/$(GUEST)/bin/python

.DEFAULT_GOAL := help
.PHONY: deb brew walk attack mutants help docs coverage dev test unit unit-newest unit-everywhere process client client-short systemd lint format bench chaos run lock clean canaries

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.stamp: requirements/dev.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps -r requirements/dev.txt
	touch $@

$(GUEST)/.stamp: requirements/litellm.txt
	rm -rf $(GUEST)
	$(PYTHON) -m venv $(GUEST)
	$(GUEST)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps -r requirements/litellm.txt
	touch $@

# Other LiteLLMs, for the canaries. Most packages are those of the pinned one: linked (or copied) from there, and what
# the lock says otherwise is installed over it, by hash.
.venv-litellm-%/.stamp: tests/requirements/litellm-%.txt $(GUEST)/.stamp
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	cp -al $(GUEST)/lib/. $(@D)/lib 2>/dev/null || cp -R $(GUEST)/lib/. $(@D)/lib
	$(@D)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes --only-binary :all: --no-deps -r $<
	touch $@

dev: $(VENV)/.stamp $(GUEST)/.stamp  ## a working environment: .venv and .venv-litellm

test: unit process  ## everything: the unit suite, then the suite with real processes

# Repeats a run: its order, and what hypothesis and `random` draw. Each run says its seed at the end.
SEED ?=
RANDOMLY := $(if $(SEED),--randomly-seed=$(SEED))

unit: $(VENV)/.stamp  ## the fast suite, no LiteLLM, in random order; SEED=n repeats a run
	@# A short place for temporary files: a socket's name may have a hundred letters.
	base=$$(mktemp -d /tmp/ocdu-XXXXXX) && code=0; \
	$(PY) -m pytest -q -n auto --maxprocesses 8 --dist worksteal $(RANDOMLY) --basetemp=$$base/t -m "not slow" tests/unit \
		|| code=$$?; \
	rm -rf $$base; exit $$code

unit-newest:  ## the fast suite on the newest Python that is here
	@python=$$(tests/newest.sh); \
	if [ -z "$$python" ]; then echo "no Python newer than 3.11 is here"; \
	elif $(MAKE) .venv-newest/.stamp VENV=.venv-newest PYTHON="$$python"; then \
		$(MAKE) unit VENV=.venv-newest PYTHON="$$python"; \
	else echo "the packages for $$python cannot be had here: its tests did not run"; fi

unit-everywhere: $(VENV)/.stamp  ## each unit test file alone, then all in ten orders, with 1 to 16 workers, as other machines are set up
	$(PY) tests/everywhere.py $(EVERYWHERE)

coverage: $(VENV)/.stamp  ## which of the code the fast suite runs
	$(PY) -m coverage run -m pytest -q $(RANDOMLY) -m "not slow" tests/unit
	$(PY) -m coverage combine -q
	$(PY) -m coverage report --skip-covered --sort=cover --fail-under=63

process: dev .venv-litellm-1.99.4/.stamp  ## real daemon, real LiteLLM, real systemd user manager
	OCD_TEST_THOROUGH=1 $(PY) -m pytest -q $(RANDOMLY) -n 2 --dist worksteal -m slow tests/unit
	@# A file at a time and two at once: most of the time they wait. What shares a daemon stays together, in its order.
	$(PY) -m pytest -q -p no:randomly -n 2 --dist loadfile --durations=15 tests/process
	$(PY) -m pytest -q -p no:randomly tests/browser
	$(PY) -m pytest -q -p no:randomly --durations=5 tests/systemd

client: dev  ## the real Claude Code (npm installs it below .claude-client) in a network of its own: tests/client/README.md
	$(PY) -m tests.client -q

client-short: dev  ## its short form, the newest client alone; where there is no npm or no namespace it says so
	$(PY) -m tests.client --short --if-possible -q

canaries: dev .venv-litellm-1.99.4/.stamp .venv-litellm-1.90.7/.stamp  ## where credentials go, on every LiteLLM that we test with
	OCD_TEST_CANARIES=all $(PY) -m pytest -q tests/process/test_canaries.py

walk:  ## the first ten minutes of a new user, from the README alone; WALK=--debian in a new Debian (debootstrap, root), --deb from its package
	$(PYTHON) tests/walk/walk.py $(WALK)

deb:  ## a Debian package, in dist; needs dpkg-deb
	$(PYTHON) -m packages.deb dist

brew:  ## a Homebrew formula and the archive that it installs, in dist
	$(PYTHON) -m packages.homebrew dist

systemd: dev  ## only what needs a systemd user manager
	$(PY) -m pytest -q -m systemd tests/systemd

lint: $(VENV)/.stamp  ## ruff and the strict type checker
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy --platform darwin

docs: $(VENV)/.stamp  ## write what is made from the code: man pages, schemas, errors.md, the README's pictures (the dashboard's with Chromium)
	PYTHONPATH=$(CURDIR) $(PY) docs/make.py
	PYTHONPATH=$(CURDIR) HOME=/home/you $(PY) docs/pictures/make.py
	PYTHONPATH=$(CURDIR) $(PY) docs/pictures/page.py

format: $(VENV)/.stamp  ## lay out the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: dev  ## measure against supervisord, pm2 and the bare process
	$(PY) -m bench

mutants: $(VENV)/.stamp  ## plant mistakes one by one: the tests must find each; ONLY=word
	$(PY) -m tests.mutants $(ONLY)

attack: dev  ## the table of docs/security.md as tests: another user (needs root), hostile upstreams, folders, inputs; SEED=n
	$(PY) -m pytest -q $(RANDOMLY) -n 2 --dist loadscope tests/attack --ignore tests/attack/test_crowd.py --timeout 1800
	@# Ten thousand connections for two minutes, alone: it compares times.
	$(PY) -m pytest -q -s tests/attack/test_crowd.py

chaos: dev  ## faults at random for a few minutes; SEED=n repeats a run
	OCD_TEST_CHAOS=full OCD_TEST_SEED=$(SEED) $(PY) -m pytest -q -s tests/process/test_chaos.py --timeout 7200

run: dev  ## the daemon in the foreground, from this checkout
	PYTHONPATH=$(CURDIR) OCD_LITELLM__PYTHON=$(OCD_TEST_LITELLM_PYTHON) $(PY) -m ocd

COMPILE = $(or $(UV),uv) --no-config pip compile --universal --python-version 3.11 --generate-hashes --only-binary :all: --no-emit-index-url --no-header --no-annotate -q
LITELLM = $(COMPILE) --overrides requirements/litellm-overrides.in requirements/litellm.in

lock:  ## resolve the dependencies again (uv does it: make lock UV=/path/to/uv)
	$(COMPILE) pyproject.toml -o requirements/ocd.txt
	$(COMPILE) pyproject.toml --extra team -c requirements/ocd.txt -o requirements/team.txt
	$(COMPILE) pyproject.toml --extra dev --extra team requirements/build.in -c requirements/ocd.txt -o requirements/dev.txt
	$(LITELLM) -o requirements/litellm-full.txt
	$(LITELLM) -c requirements/litellm-full.txt --excludes requirements/litellm-trim.in -o requirements/litellm.txt
	for version in 1.99.4 1.90.7; do echo "litellm[proxy]==$$version" | $(COMPILE) - -o tests/requirements/litellm-$$version.txt || exit 1; done
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt

clean:  ## remove what was made here
	rm -rf $(VENV) .venv-newest $(GUEST) $(GUEST)-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
