"""XTTS models: base models, loading, decoding, the checkpoint format."""
