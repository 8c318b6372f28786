"""What it costs: each file measures one thing side by side in one run and prints ratios. Results: docs/PERFORMANCE.md."""
