"""Other services that vouch for clients."""
