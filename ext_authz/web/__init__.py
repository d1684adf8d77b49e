"""What pages for people are made with: those of the console, and those of applications."""
