"""What the package knows about SB3's and sb3-contrib's algorithms, and what its own algorithms offer."""
