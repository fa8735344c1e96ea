"""The table of SB3's and sb3-contrib's algorithms, and the protocol of our own."""
