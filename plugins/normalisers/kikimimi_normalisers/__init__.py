"""Built-in normalisers of kikimimi: one component, one file."""
