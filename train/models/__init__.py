"""One file a network, structure and key names as published."""
