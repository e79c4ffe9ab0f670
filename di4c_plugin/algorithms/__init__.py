"""Training methods: one file each, with the paper at its head."""
