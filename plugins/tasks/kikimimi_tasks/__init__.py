"""Built-in tasks of kikimimi: one component, one file."""
