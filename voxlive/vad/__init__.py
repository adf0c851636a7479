"""Speech probability to speech started and stopped."""
