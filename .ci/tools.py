"""Prints what the extra `dev` asks for beside the package itself: the linters and what builds a release."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = project["optional-dependencies"]["dev"]
print(*(line for line in wanted if not line.startswith("kikimimi")), sep="\n")
