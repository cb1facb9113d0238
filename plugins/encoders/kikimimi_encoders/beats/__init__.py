"""BEATs: an encoder of sounds."""
