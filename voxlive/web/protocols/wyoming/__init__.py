"""Wyoming over TCP: what Home Assistant speaks. The translator is ``protocols.wyoming``."""
