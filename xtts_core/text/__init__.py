"""Written language: normalisation, sentences, vocabulary."""
