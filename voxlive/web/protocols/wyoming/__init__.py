"""Wyoming over TCP, the protocol of Home Assistant."""
