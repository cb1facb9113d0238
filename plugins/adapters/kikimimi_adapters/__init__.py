"""Built-in adapters of kikimimi: one component, one file."""
