"""Whether who speaks has finished: a network for the end of a turn, and the turns of a stream."""
