"""What is done, a file a stage: its settings, one public function, a frozen result."""
