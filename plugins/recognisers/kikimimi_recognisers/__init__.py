"""Built-in recognisers of kikimimi."""
