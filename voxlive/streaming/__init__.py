"""Live sessions: ingest, intake, transcript, events, queues, and the online processor."""
