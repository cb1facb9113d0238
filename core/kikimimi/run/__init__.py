"""What a run is on disk: its folder, its lock, its metrics."""
