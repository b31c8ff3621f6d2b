"""Words: subtitles, speech recognition, and the cascade that chooses between them."""
