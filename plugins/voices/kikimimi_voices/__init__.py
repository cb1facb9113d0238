"""Built-in voices of kikimimi: one component, one file."""
