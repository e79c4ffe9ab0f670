"""What networks are trained on: codes, pictures, levels."""
