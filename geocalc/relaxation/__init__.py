"""The loop that moves atoms downhill."""
