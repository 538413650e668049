"""Flow schedulers: who sends which bytes through which contact, and by when all are through."""
