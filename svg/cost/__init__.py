"""What a generation costs: time by phase and step, memory, FLOPs; and a check of what was computed meanwhile."""
