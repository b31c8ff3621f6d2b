"""The synthesis service, its client, and the programs `xtts-serve` and `xtts-say`."""
