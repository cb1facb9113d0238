"""What people read: words for numbers and names, progress, and texts made safe for a terminal."""
