"""Where processes attach to a running world: the client's side of it, and what travels between."""
