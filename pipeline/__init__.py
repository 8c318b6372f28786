"""How a run is composed and kept."""
