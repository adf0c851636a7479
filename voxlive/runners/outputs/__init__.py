"""What a transcript becomes: response formats and subtitles."""
