"""What runs on a board: it hosts nodes and plays their link plans."""
