"""The Dagster code location: assets, checks, sensors, jobs, and the `xtts` program. Thin."""
