"""Version 1: agents and the mission clock."""
