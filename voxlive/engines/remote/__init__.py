"""An engine in a process of its own, so that it and the sockets do not share one interpreter.

A model's step is hundreds of short calls from Python; beside an event loop with many sessions each
waits for its turn. Apart they also do not die of one another.
"""
