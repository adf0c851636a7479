"""A runner's process: what is said over its pipe, its inside (child) and its outside (host)."""
