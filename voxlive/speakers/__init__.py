"""Whose voice it is: a network that makes a vector of a voice, and the speakers of a stream."""
