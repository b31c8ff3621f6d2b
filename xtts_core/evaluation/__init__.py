"""Comparing a fine-tuned voice with its base, and releasing it."""
