"""The command line, the planner, the ground server's host and the reports."""
