"""Built-in metrics of kikimimi."""
