# The interpreter to build with, the folder of the virtual environment, and what is installed in it.
PYTHON ?= python3
VENV ?= .venv
GROUP ?= dev
# Passed on, as in: make test-all ARGS="-k refund".
ARGS ?=
# What runs the tests: `coverage run -m pytest` measures them, in one process (PARALLEL=).
RUNNER ?= pytest
# A process for each core; a module's tests stay together, because they share what takes long to make.
PARALLEL ?= --numprocesses=auto --dist=loadfile
# Of each table of cases one in eight, and nothing that drives other programs.
QUICK := --sample=8 -m "not external"

BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
PIP = $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-oscar explore contract mutation bench lint docs lock clean
# The tests start many processes, which would compile the app each time.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo      the app at work: simulator, worker, a small shop and four orders; ends with Ctrl-C"
	@echo "               (ARGS=--once: ends when they have settled)"
	@echo "make test      the quick tests: one case in eight; three to four minutes"
	@echo "make test-all  all tests; what they need and is not there is skipped, with the reason"
	@echo "make test-oscar"
	@echo "               the tests of giftcards.oscar, with the newest django-oscar; a minute"
	@echo "make explore   random histories of a shop, for a minute (ARGS=\"--seconds 600 --seed 7\")"
	@echo "make contract  what the app takes for granted about the provider, tried in its sandbox with the"
	@echo "               key in GIFTCARDS_API_KEY; without one, with the simulator"
	@echo "make mutation  which small changes of the code about money no test notices; three quarters of an"
	@echo "               hour (ARGS=giftcards/rules/money.py: one module)"
	@echo "make bench     what the app costs beside its baselines, in fifteen minutes (ARGS=--quick: four)"
	@echo "make lint      style, types, complexity, imports, migrations, system checks"
	@echo "make docs      the documentation, into docs/_build/html"
	@echo "make lock      uv.lock, anew for what pyproject.toml says (ARGS=--upgrade: with newer releases)"
	@echo "make clean     removes what was built; the demo's database and keys stay"
	@echo
	@echo "All of them make a virtual environment first, in $(VENV) with $(PYTHON): a minute."

install: $(INSTALLED)

# A dot a second shows that pip, which is silent for most of the time, is at work.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
		echo "Python 3.11 or later is needed, and $(PYTHON) is not: make PYTHON=python3.13 ..."; \
		exit 1; }
	@echo "Installing into $(VENV): about a minute, only this time."
	@echo "  1/3  making the virtual environment ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  2/3  getting a pip that knows dependency groups ..."
	@$(PIP) --quiet --upgrade "pip>=25.1"
	@echo "  3/3  downloading and installing the app and what it needs:"
	@( while kill -0 $$$$ 2>/dev/null; do printf .; sleep 1; done ) & dots=$$!; \
	$(PIP) --progress-bar off --editable . --group $(GROUP) >$(INSTALLED).log; status=$$?; \
	kill $$dots; echo; \
	test $$status -eq 0 || { tail -n 30 $(INSTALLED).log; exit $$status; }
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/python -m example_project.demo $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m $(RUNNER) $(PARALLEL) $(QUICK) $(ARGS)

test-all: $(INSTALLED)
	$(BIN)/python -m $(RUNNER) $(PARALLEL) $(ARGS)

# In environments of their own.
test-oscar: VENV = .venv-oscar
test-oscar:
	@$(MAKE) --no-print-directory install VENV=$(VENV) GROUP=oscar
	DJANGO_SETTINGS_MODULE=tests.oscar.settings \
		$(BIN)/python -m $(RUNNER) $(PARALLEL) tests/oscar $(ARGS)

explore: $(INSTALLED)
	@$(BIN)/python -m tests.explore $(ARGS)

contract: $(INSTALLED)
	@$(BIN)/python -m tests.contract $(ARGS)

mutation: VENV = .venv-mutation
mutation:
	@$(MAKE) --no-print-directory install VENV=$(VENV) GROUP=mutation
	$(BIN)/python -m tests.mutation $(ARGS)

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(ARGS)

lint: export DATABASE_URL := sqlite://:memory:
lint: $(INSTALLED)
	$(BIN)/uv lock --check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/complexipy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python manage.py makemigrations giftcards giftcards_books giftcards_delivery storefront api --check --dry-run
	$(BIN)/python manage.py check --fail-level WARNING

docs: $(INSTALLED)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

lock: $(INSTALLED)
	$(BIN)/uv lock $(ARGS)

clean:
	rm -rf .nox build dist htmlcov docs/_build .coverage .coverage.* .hypothesis
	rm -rf .mutation .complexipy_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv*" -prune -exec rm -rf {} +
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
