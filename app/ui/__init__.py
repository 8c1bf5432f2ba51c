"""What browsers are given: pages and the libraries they use, all from this machine."""
