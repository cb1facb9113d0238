"""Built-in tasks of kikimimi."""
