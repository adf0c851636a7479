"""A live session: sample clock, engines, transcript, events."""
