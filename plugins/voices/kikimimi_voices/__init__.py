"""Built-in voices of kikimimi."""
