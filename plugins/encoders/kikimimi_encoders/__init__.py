"""Built-in encoders of kikimimi: one component, one file."""
