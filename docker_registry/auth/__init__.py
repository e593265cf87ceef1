"""Access control: who a client is, and what the operator's rules allow it to do."""
