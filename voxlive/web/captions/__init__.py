"""Live captions: what sessions transcribe, for any number of readers over HTTP."""
