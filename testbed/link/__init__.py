"""What each link carries and when: delay, rate and queue as timed states, compiled from the orbits."""
