"""Built-in llms of kikimimi: one component, one file."""
