"""What an experiment is, and what satellite, station and ground do. Runs on a laptop; no daemon, no command line."""
