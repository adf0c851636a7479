"""Who may use a server and how much of it: keys, short-lived tickets and limits; no sockets."""
