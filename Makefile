# `make serve` and `make test` set everything up by themselves; only Python 3.11+ and make are needed.
PYTHON ?= python3
UV_VERSION = 0.13.8
TYPESCRIPT_VERSION = 5.9.3
ARGS ?=
# The model that `make serve` brings: tiny.en (English, 78 MB) or base (99 languages, 148 MB).
STARTER ?= tiny.en
# A folder of the user's, or one in .venv where that cannot be written: for uv's cache, and for the
# models that `make serve` brings.
writable = $(shell d="$(1)"; \
  mkdir -p "$$d" 2>/dev/null && test -w "$$d" && echo "$$d" || echo "$(CURDIR)/.venv/cache")
USER_CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}
CACHE = $(call writable,$${UV_CACHE_DIR:-$(USER_CACHE)/uv})
MODELS = XDG_CACHE_HOME="$(call writable,$(USER_CACHE))"
UV = UV_CACHE_DIR="$(CACHE)" .venv/bin/uv
RUN = .venv/bin/python -m

.PHONY: serve test long endurance check check-page docs speech clean
.DELETE_ON_ERROR:

serve: .venv/.installed
	@$(if $(findstring --model,$(ARGS)),,$(MODELS) .venv/bin/voxlive models fetch whisper-$(STARTER))
	@$(MODELS) .venv/bin/voxlive serve $(ARGS)

# More processes than the two cores this is meant for: half of its time a test waits.
test: .venv/.installed-test
	@PYTHONDONTWRITEBYTECODE= $(RUN) pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# Tests of many steps through servers, the page and clients; `make test` has shorter ones of each kind.
long: .venv/.installed-test
	@$(RUN) pytest -n 4 --dist loadfile --no-loadscope-reorder -m "long and not endurance" $(ARGS)

# What holds for one process holds for three, while one of them is started again, and for two servers
# behind HAProxy.
PROTOCOLS = tests/web/protocols tests/web/clients tests/web/access tests/web/test_live_servers.py \
  tests/web/test_live_sessions.py tests/web/test_metrics.py tests/web/test_shutdown.py
endurance: .venv/.installed-test
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "endurance or hypothesis" --hypothesis-profile=endurance $(ARGS)
	@VOXLIVE_TEST_WORKERS=3 $(RUN) pytest -n 2 --dist loadfile -m "" $(PROTOCOLS)
	@VOXLIVE_TEST_WORKERS=3 VOXLIVE_TEST_KILLED=1 \
	  $(RUN) pytest -n 2 --dist loadfile $(firstword $(PROTOCOLS))
	@VOXLIVE_TEST_REPLICAS=2 $(RUN) pytest -n 2 --dist loadfile $(firstword $(PROTOCOLS))

check: .venv/.installed-test
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@.venv/bin/lint-imports --no-logo
	@$(MAKE) -s check-page

# The types of the page's JavaScript, by TypeScript, where Node is there to run it.
TYPESCRIPT = .venv/typescript-$(TYPESCRIPT_VERSION)
check-page:
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
	  echo "no Node on this machine (nodejs, npm): the types of the page are not checked"; \
	elif test -x $(TYPESCRIPT)/node_modules/.bin/tsc || npm install --prefix $(TYPESCRIPT) --no-save \
	  --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error typescript@$(TYPESCRIPT_VERSION) >/dev/null; then \
	  $(TYPESCRIPT)/node_modules/.bin/tsc -p tsconfig.json; \
	else \
	  echo "TypeScript cannot be fetched: the types of the page are not checked"; \
	fi

docs: .venv/.installed-docs
	@$(RUN) sphinx -q -E -W --keep-going docs build/docs $(ARGS)
	@echo "build/docs/index.html"

# Errors on recordings of people: make speech SPEECH=DIR; DIR has references.json and NAME.flac.
speech: .venv/.installed-test
	@$(RUN) voxlive models fetch whisper-tiny.en whisper-base
	@PYTHONPATH=tests .venv/bin/python benchmarks/speech.py "$(SPEECH)" $(ARGS)
	@PYTHONPATH=tests .venv/bin/python benchmarks/live_curve.py "$(SPEECH)"
	@PYTHONPATH=tests .venv/bin/python benchmarks/two_sources.py "$(SPEECH)"

clean:
	rm -rf .venv build dist tests/web/clients/js/node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "voxlive needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install -q --disable-pip-version-check --no-cache-dir uv==$(UV_VERSION)

.venv/.installed: .venv/bin/uv pyproject.toml constraints.txt
	@$(UV) pip install -q -c constraints.txt -e .
	@touch $@

.venv/.installed-test: .venv/bin/uv pyproject.toml constraints.txt tests/clients.txt
	@$(UV) pip install -q -c constraints.txt -e ".[test,check]"
	@$(UV) pip install -q --no-deps -r tests/clients.txt
	@touch .venv/.installed $@

.venv/.installed-docs: .venv/bin/uv pyproject.toml constraints.txt
	@$(UV) pip install -q -c constraints.txt -e ".[docs]"
	@touch .venv/.installed $@
