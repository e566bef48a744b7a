"""Plans of dense prediction: nnU-Net's rules, one by one, as arithmetic. No network is built and no torch imported."""
