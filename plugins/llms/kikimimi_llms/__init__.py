"""Built-in LLMs of kikimimi."""
