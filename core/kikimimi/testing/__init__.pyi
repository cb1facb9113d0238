"""The public names."""

from .checks import (
    Check as Check,
    CheckResult as CheckResult,
    list_checks as list_checks,
    parametrize_checks as parametrize_checks,
    run_checks as run_checks,
)
from .records import write_shard as write_shard
from .subject import ContractError as ContractError
from .tiny import tiny_model as tiny_model, tiny_recipe as tiny_recipe
