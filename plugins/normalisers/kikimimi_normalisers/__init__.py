"""Built-in normalisers of kikimimi."""
