"""The `xtts` program."""
