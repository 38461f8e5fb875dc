"""Which atoms are connected."""
