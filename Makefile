# The tools are those of the active environment: pip install -e '.[dev]'
.PHONY: test lint ruff mypy pyright fix docs

test:
	pytest

lint: ruff mypy pyright

ruff:
	ruff check
	ruff format --check

mypy:
	mypy

pyright:
	pyright

fix:
	ruff check --fix
	ruff format

docs:
	python docs/generate.py
