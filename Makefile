# The tools are those of the active environment: pip install -e '.[dev]'
.PHONY: test lint fix docs

test:
	pytest

lint:
	ruff check
	ruff format --check
	mypy
	pyright

fix:
	ruff check --fix
	ruff format

docs:
	python docs/generate.py
