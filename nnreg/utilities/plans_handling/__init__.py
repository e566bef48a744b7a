"""``nnreg.utilities.plans_handling.plans_handler``: plans where users of nnU-Net look for them."""
