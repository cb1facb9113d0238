"""The speech-aware LM: batches of conversations, the packed forward pass, generation, assembly."""
