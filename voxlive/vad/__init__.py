"""Voice activity detection: the network, the shared detector, and the gate of each session."""
