"""What follows from the data alone: nnU-Net's rules, and ours."""
