"""Sessions that last: what live sessions transcribe, in a database."""
