"""What is different between two traces, and how surely."""
