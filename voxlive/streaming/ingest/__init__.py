"""Bytes in, float32 mono at 16 kHz out: raw PCM in a declared format, or a container."""
