"""The public names."""

from .checks import (
    Check as Check,
    CheckResult as CheckResult,
    list_checks as list_checks,
    run_checks as run_checks,
)
from .contract import ContractError as ContractError
from .parametrize import parametrize_checks as parametrize_checks
from .shard import write_shard as write_shard
from .tiny import tiny_model as tiny_model, tiny_recipe as tiny_recipe
