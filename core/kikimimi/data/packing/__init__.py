"""A corpus becomes shards, with an account of what was left out."""
