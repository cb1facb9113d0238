"""Built-in encoders of kikimimi."""
