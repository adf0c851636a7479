"""Authentication of clients: keys, tickets, limits, allowed sites, and the ASGI middleware."""
