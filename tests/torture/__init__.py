"""Everything that can happen to runs, on purpose: kills, damaged checkpoints, full disks, random configurations."""
