"""Prints what the extras `dev` and `docs` ask for beside the package: linters, what builds it, the site."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
wanted = [*extras["dev"], *extras["docs"]]
print(*(line for line in wanted if not line.startswith("kikimimi")), sep="\n")
