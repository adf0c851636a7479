"""Batch transcription, one file per runner."""
