"""Glass-forming liquids: configurations, their potential, and how their particles move."""
