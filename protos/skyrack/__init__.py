"""Messages and services of Skyrack, by version."""
