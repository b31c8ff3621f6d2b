"""The dataset: metadata, trainability, split, LJSpeech layout."""
