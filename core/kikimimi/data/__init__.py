"""Training data: audio files, records, shards with their index, the order of training, synthetic speech."""
