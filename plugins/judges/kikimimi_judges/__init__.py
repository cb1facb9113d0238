"""Built-in judges of kikimimi."""
