"""The domain: from recordings to a fine-tuned XTTS-v2 voice, free of any framework."""
