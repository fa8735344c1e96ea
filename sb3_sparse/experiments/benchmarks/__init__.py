"""What updates, loops, products and checkpoints cost, beside plain implementations."""
