"""Where weights come from: files of torch, read as data."""
