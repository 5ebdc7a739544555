"""Checkpoint images and the migration protocol, free of any driver."""
