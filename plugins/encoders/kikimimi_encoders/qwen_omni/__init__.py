"""The audio towers of Qwen-Omni's thinkers: the clip in chunks, each convolved by itself."""
