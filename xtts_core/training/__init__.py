"""Fine-tuning: audio codes, batches, the trainer."""
