"""Files on disk: the only ways in which they are written, and in which what is read from them is trusted."""
