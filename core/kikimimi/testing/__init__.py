"""The compliance kit: the contracts of components, objectives, tasks and metrics as tests for plugin authors.

    from kikimimi.testing import parametrize_checks
    from my_package import MyAdapter

    @parametrize_checks(MyAdapter)
    def test_contract(check):
        check()

`kikimimi plugins --check` runs the same checks. `tiny_model`, `tiny_recipe` and `write_shard` make small
what a recipe puts together, for tests that train; they are imported when first used, as they need a lot more.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
