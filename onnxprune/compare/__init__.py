"""How two models are compared, and how closely: what `verify.py` is made of."""
