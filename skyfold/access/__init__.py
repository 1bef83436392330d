"""How the bytes of a release are reached, and what is believed of them."""
