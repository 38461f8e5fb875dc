"""Many structures at once: workers, batches, records and run folders."""
