"""Built-in recognisers of kikimimi: one component, one file."""
