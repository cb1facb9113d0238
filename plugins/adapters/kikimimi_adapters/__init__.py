"""Built-in adapters of kikimimi."""
