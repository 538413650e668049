"""Collectives of one plane: who takes part, what goes which way round, gathering, adding up, and how long it takes."""
