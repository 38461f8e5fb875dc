"""What several tests share: structures, small models, faulty engines."""
