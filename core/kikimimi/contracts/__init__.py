"""What the author of a plugin reads: the contract of every kind, and what passes between them."""
