"""What is printed while a search runs, and what a signal does to it."""
