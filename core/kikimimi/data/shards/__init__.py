"""Records on disks and servers: tar shards with an index beside each."""
