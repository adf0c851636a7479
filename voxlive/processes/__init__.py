"""Child processes: spawning, framed messages, supervision."""
