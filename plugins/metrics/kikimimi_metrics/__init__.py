"""Built-in metrics of kikimimi: one component, one file."""
