"""What symmetry a trained network has given up, as numbers, as a table and as a picture."""
