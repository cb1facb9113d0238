"""The querying transformer and its adapter."""
