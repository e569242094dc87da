"""Who asks: the user's credentials."""
