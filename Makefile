# The tools are those of the active environment: pip install -e '.[dev]'
.PHONY: test lint ruff imports mypy pyright fix docs site

test:
	pytest

lint: ruff imports mypy pyright

ruff:
	ruff check
	ruff format --check

imports:
	lint-imports

mypy:
	mypy

pyright:
	pyright

fix:
	ruff check --fix
	ruff format

docs:
	python docs/generate.py

# The pages of docs/ as a site that opens without a server: site/index.html. Its tools: pip install -e '.[docs]'.
site:
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet
