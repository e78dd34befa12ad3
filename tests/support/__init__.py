"""What several tests need: puppets instead of mocks, small models, real processes."""
