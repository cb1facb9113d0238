"""What a model costs: operations, memory, and what a machine can do of them in a second."""
