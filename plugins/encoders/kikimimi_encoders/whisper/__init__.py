"""Whisper and those that share its layers."""
