"""Recordings: the catalogue, download, decoding, voice activity, segmentation, loudness."""
