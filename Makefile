# The tools are those of the active environment: pip install -e '.[dev]'
.PHONY: test lint ruff imports mypy pyright fix docs

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
